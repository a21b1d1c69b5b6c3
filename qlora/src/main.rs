//! All tools in one program: `qlora fetch` is `fetch`, and `qlora train` is `lora-train`.
//!
//! | file | what it is |
//! |---|---|
//! | `tools` | the tools by their names |
//! | `documents` | `qlora documents`: man pages and completions, made from the tools' command lines |

mod documents;
mod tools;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Command;
use common::cli;

const EXAMPLES: &str = "\
Examples:
  qlora fetch HuggingFaceTB/SmolLM2-135M-Instruct -o model
  qlora quantize model -o q
  qlora train q --data mine.json -o out
  qlora chat out

`qlora fetch` and `fetch` are the same tool; so are `qlora train` and `lora-train`.";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let word = words.next();
    let word = word.as_ref().and_then(|word| word.to_str()).unwrap_or_default();
    let (name, main) = match tools::named(word) {
        Some(tool) => (tool.name, tool.main),
        None if word == documents::NAME => (documents::NAME, documents::main as fn(_) -> _),
        None => return say_what_there_is(),
    };
    main([OsString::from(format!("qlora {name}"))].into_iter().chain(words).collect())
}

/// Prints help, the version, or that there is no such command.
fn say_what_there_is() -> ExitCode {
    match command().try_get_matches() {
        Ok(_) => ExitCode::SUCCESS,
        Err(mistake) => cli::usage("qlora", &mistake),
    }
}

/// Returns the whole command line of `qlora`, with that of every tool.
fn command() -> Command {
    let tools = tools::TOOLS.iter().map(|tool| {
        let command = cli::in_both_spellings((tool.command)(), &format!("qlora {}", tool.name), tool.program);
        let aliases = (tool.name != tool.program).then_some(tool.program);
        command.name(tool.name).visible_aliases(aliases)
    });
    Command::new("qlora")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Fine-tune an open-weight chat model on your own data")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(tools)
        .subcommand(documents::command())
}
