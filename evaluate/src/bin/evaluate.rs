//! The program `evaluate`.

use std::process::ExitCode;

fn main() -> ExitCode {
    evaluate::main(std::env::args_os().collect())
}
