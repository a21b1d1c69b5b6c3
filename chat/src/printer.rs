//! Prints the answers of a session as they come.

use std::time::Instant;

use common::generate::{Event, GenerationSettings, ModelEngine, Session, StopReason};
use common::text::Conversation;
use common::{Result, cli};

/// A session whose answers are printed.
pub(crate) struct AnswerPrinter<'a> {
    /// What is printed above each answer; empty where there is one answer only.
    pub name: &'static str,
    /// What answers.
    pub session: Session<'a, ModelEngine<'a>>,
}

impl AnswerPrinter<'_> {
    /// Answers the last message of `conversation`, from which the oldest turns are dropped if it has
    /// outgrown the model. The answer is printed piece by piece if `show` says so; Ctrl-C ends it.
    pub(crate) fn answer(
        &mut self,
        conversation: &mut Conversation,
        settings: &GenerationSettings,
        show: bool,
    ) -> Result<String> {
        let window = self.session.max_tokens();
        let prompt = self.session.prompt(conversation, settings)?;
        if prompt.dropped > 0 {
            cli::note(format_args!(
                "the conversation outgrew the model's {window} tokens: the {} oldest messages are dropped",
                prompt.dropped
            ));
        }
        if !self.name.is_empty() {
            cli::answer(format_args!("[{}]\n", self.name))?;
        }
        let begun = Instant::now();
        let prompt_tokens = prompt.tokens.len();
        self.session.begin(prompt.tokens, settings)?;
        let mut tokens = 0;
        let mut answer = String::new();
        let mut print = |text: String| {
            answer.push_str(&text);
            if show { cli::answer(text) } else { Ok(()) }
        };
        let mut stop = None;
        while stop.is_none() && !cli::interrupted() {
            match self.session.next_event()? {
                Event::Prompt => {}
                Event::Token { text, .. } => {
                    tokens += 1;
                    print(text)?;
                }
                Event::Stop(reason) => stop = Some(reason),
            }
        }
        print(self.session.finish()?)?;
        if show {
            cli::answer("\n")?;
        }
        match stop {
            Some(StopReason::Stop) | None => {}
            Some(StopReason::Length) => cli::verbose("the answer is cut at --max-new-tokens"),
            Some(StopReason::Context) => {
                cli::note(format_args!("the answer is cut at the model's {window} tokens"));
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        cli::verbose(format_args!(
            "{prompt_tokens} tokens of prompt, {tokens} of answer in {seconds:.1} s, {:.1} a second",
            f64::from(tokens) / seconds
        ));
        Ok(answer)
    }
}
