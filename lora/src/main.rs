//! `lora-train`: fine-tunes LoRA adapters on a frozen model and prints the adapter's directory.

use std::process::ExitCode;

use common::cli;
use lora::arguments::Arguments;
use lora::config::Config;

fn main() -> ExitCode {
    cli::run("lora-train", |arguments: Arguments| {
        let output = lora::train::train(Config::new(arguments)?)?;
        cli::print_path(&output)
    })
}
