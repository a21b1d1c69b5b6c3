//! The program `chat`.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat::main(std::env::args_os().collect())
}
