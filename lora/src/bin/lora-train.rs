//! The program `lora-train`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lora::main(std::env::args_os().collect())
}
