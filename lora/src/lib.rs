//! Fine-tunes LoRA adapters on a frozen model.
//!
//! | module | what it is |
//! |---|---|
//! | [`arguments`] | the command line |
//! | [`yaml`] | LLaMA-Factory's `train.yaml`, turned into options |
//! | [`config`] | the settings of a run, checked |
//! | [`data`] | instruction data: files of examples, read and tokenized |
//! | [`schedule`] | the length of a run and its learning rates |
//! | [`plan`] | the order of examples and the use of memory |
//! | [`run`] | steps, evaluation, checkpoints and the finished adapter |
//! | [`logs`] | what a run writes down and shows while it trains |

pub mod arguments;
pub mod config;
pub mod data;
pub mod logs;
pub mod plan;
pub mod run;
pub mod schedule;
pub mod yaml;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use common::cli::{self, Tool};
use common::error::Kind;
use common::world;

use crate::arguments::Arguments;

/// Runs the tool on a command line, the first word of which is the program.
pub fn main(line: Vec<OsString>) -> ExitCode {
    cli::run(Tool { name: "lora-train", hint }, line.clone(), |_: Arguments| {
        let (arguments, options) = yaml::complete(line)?;
        world::run(arguments.device(), |world| {
            let config = arguments.config(options, world)?;
            match run::train::train(config, world)? {
                Some(output) => cli::print_path(&output),
                None => Ok(()),
            }
        })
    })
}

/// Returns the tool's command line, from which help, man pages and completions are made.
pub fn command() -> Command {
    Arguments::command()
}

/// What to do about errors of a kind, in options that this tool has.
fn hint(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::OutOfMemory => Some(
            "other programs may hold memory (nvidia-smi shows a GPU's); ask for less with --vram-budget, \
             --cutoff-len, --lora-rank or --optim adamw_8bit",
        ),
        Kind::Mismatch => Some(
            "check that these files were made for each other: --adapter-name-or-path takes adapters of MODEL",
        ),
        Kind::TooLong => Some("keep fewer tokens of each example with --cutoff-len"),
        _ => None,
    }
}
