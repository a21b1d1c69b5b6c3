//! `lora-train`: fine-tunes LoRA adapters on a frozen model and prints the adapter's directory.

use std::process::ExitCode;

use common::cli::{self, Tool};
use lora::arguments::Arguments;
use lora::config::Config;
use lora::yaml;

fn main() -> ExitCode {
    cli::run(Tool { name: "lora-train", hint: |_| None }, |_: Arguments| {
        let (arguments, settings) = yaml::complete(std::env::args_os().collect())?;
        match lora::train::train(Config::new(arguments, settings)?)? {
            Some(output) => cli::print_path(&output),
            None => Ok(()),
        }
    })
}
