//! The command-line contract, once for all tools.
//!
//! stdout carries paths or the answer, stderr carries everything for people, and the exit code
//! says how it ended: 0 done, 1 failed, 2 wrong usage, 130 interrupted. This module is the only
//! place that prints.

mod arguments;
mod call;
mod escape;
mod input;
mod interrupt;
mod locations;
mod messages;
mod output;
mod progress;
mod secrets;
mod size;
mod stderr;
mod stdout;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::error::Kind;
use crate::files::check_unchanged;
use crate::host_memory::peak_resident_memory;
use crate::{Error, Result};

pub use arguments::Common;
pub use call::in_both_spellings;
pub use escape::{one_line, quoted, quoted_path};
pub(crate) use input::from_stdin;
pub use input::{Input, Inputs, inputs, is_gguf, is_yaml};
pub(crate) use interrupt::stop;
pub use interrupt::{check_interrupted, interrupted, take_interrupted};
pub use locations::{cache_directory, tool_command};
pub use messages::{Tool, is_quiet, note, note_lines, prompt, verbose, warn};
pub(crate) use messages::{hint_of, mute, say_error, speak, tool_name};
pub use output::{
    Begun, Destination, GrowingDirectory, OutputDirectory, OutputFile, create_new, expect_ours, file_version,
    is_unfinished, made_otherwise, no_follow, parts_of, recipe_of, temporary, write_file,
};
pub use progress::{Progress, Subtask, Unit};
pub use secrets::{hide_secrets, keep_secret};
pub use size::Size;
pub use stdout::{answer, print_path, stdout};

/// Parses a command line, does the work and turns its outcome into the exit code.
///
/// The first word of `line` is how the tool was called: the path of its program, or `qlora` and a command. The
/// tool's name begins every message. A closed pipe downstream is not an error.
pub fn run<A: Parser + AsRef<Common>>(
    tool: Tool,
    line: Vec<OsString>,
    work: impl FnOnce(A) -> crate::Result<()>,
) -> ExitCode {
    let arguments = match call::parse::<A>(tool.name, line) {
        Ok(arguments) => arguments,
        Err(mistake) => return usage(tool.name, &mistake),
    };
    let common: &Common = arguments.as_ref();
    messages::begin(tool, common.quiet, common.verbose);
    let begun = Instant::now();
    match interrupt::listen().and_then(|()| because_of_changes(work(arguments))) {
        Ok(()) => {
            let peak =
                peak_resident_memory().map_or(String::new(), |b| format!(", peak memory {} MiB", b >> 20));
            messages::verbose(format_args!("done in {:.2} s{peak}", begun.elapsed().as_secs_f64()));
            ExitCode::SUCCESS
        }
        Err(error) => end(&error),
    }
}

/// Reports a file that changed while it was read in place of any other error, because it explains that
/// error. A signal and a closed pipe are reported as they are.
fn because_of_changes(outcome: Result<()>) -> Result<()> {
    let ended = |kind| [Kind::Interrupted, Kind::ClosedPipe].contains(&kind);
    match (check_unchanged(), outcome) {
        (Err(_), Err(error)) if ended(error.kind()) => Err(error),
        (Err(change), outcome) => {
            outcome.unwrap_or_else(messages::verbose);
            Err(change)
        }
        (Ok(()), outcome) => outcome,
    }
}

/// Prints what clap says of a command line: help and versions on stdout, mistakes on stderr. Returns the exit
/// code.
pub fn usage(program: &str, mistake: &clap::Error) -> ExitCode {
    messages::usage(program, mistake);
    ExitCode::from(u8::from(mistake.use_stderr()) * 2)
}

fn end(error: &Error) -> ExitCode {
    if error.kind() != Kind::ClosedPipe {
        say_error(error);
    }
    ExitCode::from(exit_code(error.kind()))
}

/// The exit code of a tool that ends with an error of a kind.
pub(crate) fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Usage => 2,
        Kind::Interrupted => 130,
        Kind::ClosedPipe => 0,
        _ => 1,
    }
}
