//! The program `fetch`.

use std::process::ExitCode;

fn main() -> ExitCode {
    fetch::main(std::env::args_os().collect())
}
