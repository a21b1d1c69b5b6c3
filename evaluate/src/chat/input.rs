//! What the user types: lines, pastes of several lines, commands.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Lines that follow each other faster than this were pasted, and are one message.
const PASTE_GAP: Duration = Duration::from_millis(30);

/// How often a wait for input looks at whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// A message of one or, if pasted, more lines.
    Text(String),
    /// No more will come.
    End,
    /// The wait was broken off.
    Interrupted,
}

/// Messages as they are typed on a terminal.
pub struct Typed {
    lines: Receiver<String>,
    gap: Duration,
}

impl Typed {
    /// Reads from `source` on a thread of its own, so that a wait for it can be broken off.
    pub fn new(source: impl Read + Send + 'static) -> Self {
        Self::with_gap(source, PASTE_GAP)
    }

    /// Lines within `gap` of each other are one message.
    fn with_gap(source: impl Read + Send + 'static, gap: Duration) -> Self {
        let (sender, lines) = sync_channel(1024);
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { lines, gap }
    }

    /// The next message, or that `stopped` says to wait no longer.
    pub fn next(&self, stopped: impl Fn() -> bool) -> Entry {
        let mut text = loop {
            if stopped() {
                return Entry::Interrupted;
            }
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => break line,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Entry::End,
            }
        };
        while let Ok(line) = self.lines.recv_timeout(self.gap) {
            text.push('\n');
            text.push_str(&line);
        }
        Entry::Text(text)
    }
}

/// What a message that begins with `/` asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Forget the conversation.
    Reset,
    /// Begin anew with this system message, or with none.
    System(Option<&'a str>),
    /// Write the conversation to a file.
    Save(&'a str),
    /// End.
    Quit,
    /// Say which commands there are.
    Help,
    /// No command of ours.
    Unknown(&'a str),
}

/// The commands, for people.
pub const HELP: &str = "\
/reset         forget the conversation
/system TEXT   begin anew with a system message; without TEXT, with none
/save FILE     write the conversation as a row of training data
/quit          end; so does Ctrl-D. Ctrl-C stops an answer";

impl<'a> Command<'a> {
    /// The command in a message, if it is one.
    pub fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim().strip_prefix('/')?;
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = Some(rest.trim()).filter(|rest| !rest.is_empty());
        Some(match (name, rest) {
            ("reset", None) => Self::Reset,
            ("system", text) => Self::System(text),
            ("save", Some(file)) => Self::Save(file),
            ("quit" | "exit", None) => Self::Quit,
            ("help", None) => Self::Help,
            _ => Self::Unknown(name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_what_is_none() {
        assert_eq!(Command::parse("hello /reset"), None);
        assert_eq!(Command::parse(" /reset "), Some(Command::Reset));
        assert_eq!(
            Command::parse("/system Be brief.\nAlways."),
            Some(Command::System(Some("Be brief.\nAlways.")))
        );
        assert_eq!(Command::parse("/system"), Some(Command::System(None)));
        assert_eq!(Command::parse("/save a b.json"), Some(Command::Save("a b.json")));
        assert_eq!(Command::parse("/save"), Some(Command::Unknown("save")));
        assert_eq!(Command::parse("/etc/passwd is a file"), Some(Command::Unknown("etc/passwd")));
    }

    #[test]
    fn pasted_lines_are_one_message_and_the_end_is_told() {
        // However long the reading thread takes.
        let typed = Typed::with_gap(std::io::Cursor::new("one\ntwo\n"), Duration::from_secs(60));
        assert_eq!(typed.next(|| false), Entry::Text("one\ntwo".into()));
        assert_eq!(typed.next(|| false), Entry::End);
        assert_eq!(typed.next(|| true), Entry::Interrupted);
    }
}
