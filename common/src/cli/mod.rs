//! The command-line contract, once for all tools.
//!
//! stdout carries paths or the answer, stderr carries everything for people, and the exit code
//! says how it ended: 0 done, 1 failed, 2 wrong usage, 130 interrupted. This module is the only
//! place that prints.

mod arguments;
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

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::error::Kind;
use crate::files::check_unchanged;
use crate::host_memory::peak_resident_memory;
use crate::{Error, Result};

pub use arguments::Common;
pub use escape::{one_line, quoted, quoted_path};
pub use input::{Input, Inputs, inputs, is_gguf, is_yaml};
pub use interrupt::{check_interrupted, interrupted, take_interrupted};
pub use locations::{cache_directory, tool_path};
pub use messages::{Tool, is_quiet, note, note_lines, prompt, verbose, warn};
pub use output::{
    Begun, Destination, GrowingDirectory, OutputDirectory, OutputFile, create_new, expect_ours, file_version,
    is_unfinished, made_otherwise, no_follow, parts_of, recipe_of, temporary, write_file,
};
pub use progress::{Progress, Subtask, Unit};
pub use secrets::{hide_secrets, keep_secret};
pub use size::Size;
pub use stdout::{answer, print_path, stdout};

/// Parses the arguments, does the work and turns its outcome into the exit code.
///
/// The tool's name begins every message. A closed pipe downstream is not an error.
pub fn run<A: Parser + AsRef<Common>>(tool: Tool, work: impl FnOnce(A) -> crate::Result<()>) -> ExitCode {
    let arguments = match A::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            messages::usage(tool, &error);
            return ExitCode::from(u8::from(error.use_stderr()) * 2);
        }
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

fn end(error: &Error) -> ExitCode {
    if error.kind() != Kind::ClosedPipe {
        messages::error(error);
    }
    match error.kind() {
        Kind::Usage => ExitCode::from(2),
        Kind::Interrupted => ExitCode::from(130),
        Kind::ClosedPipe => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
