//! The program `quantize`.

use std::process::ExitCode;

fn main() -> ExitCode {
    quantize::main(std::env::args_os().collect())
}
