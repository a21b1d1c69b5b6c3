//! What the user types on a terminal: lines, and pastes of several lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use common::{Context, Result};

/// Lines that follow each other faster than this were pasted, and are one message.
const PASTE_GAP: Duration = Duration::from_millis(30);

/// How often a wait for input looks at whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Opens what the user types into: standard input, or the terminal itself where `stdin_is_taken` by the path
/// of the model.
pub(crate) fn terminal(stdin_is_taken: bool) -> Result<Box<dyn Read + Send>> {
    if !stdin_is_taken {
        return Ok(Box::new(std::io::stdin()));
    }
    let terminal = File::open("/dev/tty").context("no terminal to type on");
    Ok(Box::new(terminal.hint("name the model as an argument, and pipe the prompts in")?))
}

/// What a wait for the user has brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A message of one or, if pasted, more lines.
    Text(String),
    /// The input has ended.
    End,
    /// The wait was broken off.
    Interrupted,
}

/// The messages that a user types.
pub(crate) struct UserInput {
    lines: Receiver<String>,
    gap: Duration,
}

impl UserInput {
    /// Reads from `source` on a thread of its own, so that a wait for input can be broken off.
    pub(crate) fn new(source: impl Read + Send + 'static) -> Self {
        Self::with_gap(source, PASTE_GAP)
    }

    /// Reads messages from `source`; lines within `gap` of each other are one message.
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

    /// Waits for the next message, until `stopped` says to wait no longer.
    pub(crate) fn next(&self, stopped: impl Fn() -> bool) -> Entry {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_lines_are_one_message_and_the_end_is_told() {
        // The gap is as long as the reading thread may take.
        let input = UserInput::with_gap(std::io::Cursor::new("one\ntwo\n"), Duration::from_secs(60));
        assert_eq!(input.next(|| false), Entry::Text("one\ntwo".into()));
        assert_eq!(input.next(|| false), Entry::End);
        assert_eq!(input.next(|| true), Entry::Interrupted);
    }
}
