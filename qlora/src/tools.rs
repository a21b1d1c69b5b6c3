//! The tools by their names.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Command;

/// A tool, which is a program of its own and a command of `qlora`.
pub(crate) struct Tool {
    /// The name of the command.
    pub name: &'static str,
    /// The name of the program, by which the command is known too.
    pub program: &'static str,
    /// Runs the tool on a command line, the first word of which is how it was called.
    pub main: fn(Vec<OsString>) -> ExitCode,
    /// Returns the tool's command line.
    pub command: fn() -> Command,
}

/// All tools, in the order in which they are used.
pub(crate) const TOOLS: [Tool; 6] = [
    Tool { name: "fetch", program: "fetch", main: fetch::main, command: fetch::command },
    Tool { name: "quantize", program: "quantize", main: quantize::main, command: quantize::command },
    Tool { name: "train", program: "lora-train", main: lora::main, command: lora::command },
    Tool { name: "merge", program: "merge", main: merge::main, command: merge::command },
    Tool { name: "evaluate", program: "evaluate", main: evaluate::main, command: evaluate::command },
    Tool { name: "chat", program: "chat", main: chat::main, command: chat::command },
];

/// Returns the tool whose command or program is called `word`.
pub(crate) fn named(word: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| [tool.name, tool.program].contains(&word))
}
