//! The program `merge`.

use std::process::ExitCode;

fn main() -> ExitCode {
    merge::main(std::env::args_os().collect())
}
