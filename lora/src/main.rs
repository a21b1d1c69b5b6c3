//! `lora-train`: fine-tunes LoRA adapters on a frozen model and prints the adapter's directory.

use std::process::ExitCode;

use common::cli::{self, Tool};
use common::error::Kind;
use common::world;
use lora::arguments::Arguments;
use lora::yaml;

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

fn main() -> ExitCode {
    cli::run(Tool { name: "lora-train", hint }, |_: Arguments| {
        let (arguments, options) = yaml::complete(std::env::args_os().collect())?;
        world::run(arguments.device(), |world| {
            let config = arguments.config(options, world)?;
            match lora::run::train::train(config, world)? {
                Some(output) => cli::print_path(&output),
                None => Ok(()),
            }
        })
    })
}
