//! Talks to the model: in turns on a terminal, otherwise line by line.

use std::io::{BufRead, Read};
use std::path::PathBuf;

use common::cli;
use common::error::Kind;
use common::generate::GenerationSettings;
use common::text::{Conversation, Message};
use common::{Context, Error, Result};
use serde_json::json;

use crate::command::{Command, run_command};
use crate::conversation;
use crate::input::{Entry, UserInput};
use crate::printer::AnswerPrinter;

/// What answers, how, and what was said.
pub(crate) struct Talk<'a> {
    /// Each answers every message; the answer of the first goes into the conversation.
    pub printers: Vec<AnswerPrinter<'a>>,
    /// How tokens are chosen.
    pub settings: GenerationSettings,
    /// The system message of conversations that have none of their own.
    pub system: Option<String>,
    /// Paths that are read, and must not be written.
    pub inputs: Vec<PathBuf>,
    /// The conversations that have ended.
    pub ended: Vec<Conversation>,
}

impl Talk<'_> {
    /// Takes turns with the user who types into `source`, until the input ends or `/quit`.
    pub(crate) fn interactive(&mut self, source: impl Read + Send + 'static) -> Result<()> {
        let input = UserInput::new(source);
        let mut conversation = conversation::begin(self.system.as_deref());
        cli::note("/help shows the commands");
        loop {
            cli::prompt("> ");
            let text = match input.next(cli::interrupted) {
                Entry::Text(text) => text,
                Entry::End => break,
                Entry::Interrupted => return Err(Error::interrupted("interrupted")),
            };
            match Command::parse(&text) {
                Some(Command::Quit) => break,
                Some(command) => run_command(&command, &mut conversation, &self.inputs),
                None if text.trim().is_empty() => {}
                None => self.turn(&mut conversation, text)?,
            }
        }
        self.ended.push(conversation);
        Ok(())
    }

    /// Adds a message and the answer to it. A message that cannot be answered is taken back, with a warning.
    fn turn(&mut self, conversation: &mut Conversation, text: String) -> Result<()> {
        conversation.messages.push(Message::new("user", text));
        match self.answer(conversation, true) {
            Ok(answer) => conversation.messages.push(Message::new("assistant", answer)),
            Err(problem) if matches!(problem.kind(), Kind::Interrupted | Kind::ClosedPipe) => {
                return Err(problem);
            }
            Err(problem) => {
                conversation.messages.pop();
                cli::warn(problem);
            }
        }
        // Ctrl-C has stopped the answer, and does no more than that.
        cli::take_interrupted();
        Ok(())
    }

    /// Answers every line of standard input as a prompt of its own, on standard output.
    pub(crate) fn lines(&mut self) -> Result<()> {
        for (index, line) in std::io::stdin().lock().lines().enumerate() {
            let line = line.with_context(|| place(index))?;
            if line.trim().is_empty() {
                continue;
            }
            let mut conversation = conversation::begin(self.system.as_deref());
            conversation.messages.push(Message::new("user", line));
            let answer = self.answer(&mut conversation, true)?;
            cli::check_interrupted()?;
            conversation.messages.push(Message::new("assistant", answer));
            self.ended.push(conversation);
        }
        Ok(())
    }

    /// Answers every line of standard input as a conversation in JSON, with a message in JSON.
    pub(crate) fn json_lines(&mut self) -> Result<()> {
        for (index, line) in std::io::stdin().lock().lines().enumerate() {
            let place = || place(index);
            let line = line.with_context(place)?;
            if line.trim().is_empty() {
                continue;
            }
            let mut conversation = conversation::parse(&line, self.system.as_deref()).with_context(place)?;
            let content = self.answer(&mut conversation, false).with_context(place)?;
            cli::check_interrupted()?;
            cli::answer(format_args!("{}\n", json!({"role": "assistant", "content": content})))?;
            conversation.messages.push(Message::new("assistant", content));
            self.ended.push(conversation);
        }
        Ok(())
    }

    /// Answers the last message with every printer, and returns the answer of the first one.
    fn answer(&mut self, conversation: &mut Conversation, show: bool) -> Result<String> {
        let mut answers = Vec::with_capacity(self.printers.len());
        for printer in &mut self.printers {
            answers.push(printer.answer(conversation, &self.settings, show)?);
        }
        Ok(answers.swap_remove(0))
    }
}

/// Names a line of standard input in messages; the first has index 0.
fn place(index: usize) -> String {
    format!("standard input, line {}", index + 1)
}
