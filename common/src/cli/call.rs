//! How a tool is called: as a program of its own, such as `fetch`, or as a command of `qlora`, such as
//! `qlora fetch`.

use std::ffi::OsString;

use clap::{Command, Parser};

/// Parses the command line of the tool `name`.
pub(super) fn parse<A: Parser>(name: &str, line: Vec<OsString>) -> Result<A, clap::Error> {
    let called = line.first().and_then(|word| word.to_str()).filter(|word| word.starts_with("qlora "));
    let mut command = match called {
        Some(called) => in_both_spellings(A::command(), called, name),
        None => A::command(),
    };
    let mut matches = command.try_get_matches_from_mut(line)?;
    A::from_arg_matches_mut(&mut matches).map_err(|mistake| mistake.format(&mut command))
}

/// Returns a tool's command line with a usage that shows both spellings: `called`, such as `qlora train`, and
/// `name`, that of the tool's program.
pub fn in_both_spellings(command: Command, called: &str, name: &str) -> Command {
    let usage = command.clone().bin_name(called).render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let other = usage.replacen(called, name, 1);
    command.override_usage(format!("{usage}\n       {other}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser, Debug)]
    #[command(name = "lora-train", version)]
    struct Arguments {
        /// A model
        model: Option<String>,
    }

    fn text(line: &[&str]) -> String {
        let line = line.iter().map(OsString::from).collect();
        parse::<Arguments>("lora-train", line).unwrap_err().to_string()
    }

    #[test]
    fn help_shows_both_spellings_of_a_command_of_qlora() {
        let help = text(&["qlora train", "--help"]);
        let usage = "Usage: qlora train [MODEL]\n       lora-train [MODEL]\n\n";
        assert!(help.contains(usage), "{help}");
        let mistake = text(&["qlora train", "--no"]);
        assert!(
            mistake.contains("unexpected argument '--no'") && mistake.contains(usage.trim()),
            "{mistake}"
        );
    }

    #[test]
    fn help_of_a_program_of_its_own_shows_its_name() {
        let help = text(&["/a directory/lora-train", "--help"]);
        assert!(help.contains("Usage: lora-train [MODEL]\n\n") && !help.contains("qlora"), "{help}");
    }
}
