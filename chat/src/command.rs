//! The commands that a user types in place of a message.

use std::path::{Path, PathBuf};

use common::cli;
use common::text::Conversation;

use crate::{conversation, save};

/// What a message that begins with `/` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    /// Forget the conversation but for its system message.
    Reset,
    /// Begin a new conversation with this system message, or with none.
    System(Option<&'a str>),
    /// Write the conversation to this file.
    Save(&'a str),
    /// End the program.
    Quit,
    /// Show the commands.
    Help,
    /// A name that is no command.
    Unknown(&'a str),
}

/// The commands, as they are shown.
pub(crate) const HELP: &str = "\
/reset         forget the conversation
/system TEXT   begin anew with a system message; without TEXT, with none
/save FILE     write the conversation as a row of training data
/quit          end; so does Ctrl-D. Ctrl-C stops an answer";

impl<'a> Command<'a> {
    /// Reads the command in a message; `None` where the message is none.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
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

/// Obeys a command but for [`Command::Quit`], which ends the loop of its caller. `inputs` are the paths that
/// are read and must not be written.
pub(crate) fn run_command(command: &Command, conversation: &mut Conversation, inputs: &[PathBuf]) {
    match command {
        Command::Reset => {
            conversation::reset(conversation);
            cli::note("the conversation is forgotten");
        }
        Command::System(text) => {
            *conversation = conversation::begin(*text);
            cli::note("a new conversation begins");
        }
        Command::Save(file) => {
            let begun = save::begin(Path::new(file), inputs, false);
            match begun.and_then(|begun| save::finish(begun, std::slice::from_ref(conversation))) {
                Ok(()) => cli::note(format_args!("the conversation is in {file}")),
                Err(problem) => cli::warn(problem),
            }
        }
        Command::Help | Command::Quit => cli::note_lines(HELP),
        Command::Unknown(name) => {
            cli::warn(format_args!("/{name} is no command"));
            cli::note_lines(HELP);
        }
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
}
