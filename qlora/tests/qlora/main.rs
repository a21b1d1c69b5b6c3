//! The program `qlora`, what is installed around it, and the recipes that use it.
//!
//! | file | what it proves |
//! |---|---|
//! | `commands` | every tool is a command, and help shows both spellings |
//! | `documents` | man pages and completions |
//! | `prefix` | `make install` and `make uninstall` |
//! | `wheel` | the wheel, in a fresh environment of Python |
//! | `recipes` | every file of docs/recipes, run as it stands |

mod commands;
mod documents;
mod prefix;
mod recipes;
mod wheel;

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::dir::{Dir, Run};

/// The programs that are installed for the tools, and their names as commands of `qlora`.
const TOOLS: [(&str, &str); 6] = [
    ("fetch", "fetch"),
    ("quantize", "quantize"),
    ("lora-train", "train"),
    ("merge", "merge"),
    ("evaluate", "evaluate"),
    ("chat", "chat"),
];

/// The path of a file of the checkout.
fn checkout(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// The program `qlora` as it was built for this test.
fn qlora() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_qlora"))
}

/// Runs a program in `folder`, which must end well.
fn run(folder: &Dir, program: impl AsRef<Path>, arguments: &[&str]) -> Run {
    let program = program.as_ref().to_str().expect("a plain path");
    let run = Run::of(folder.command(program).args(arguments));
    run.assert_code(0);
    run
}

/// `make TARGET` of the checkout, for a prefix in `folder`.
fn make(folder: &Dir, target: &str) -> Command {
    let mut command = folder.command("make");
    command.arg("-C").arg(checkout("")).arg(target).env_remove("MAKEFLAGS").args([
        format!("BUILT={}", qlora().parent().expect("a folder").display()),
        format!("DESTDIR={}", folder.path("stage").display()),
        "PREFIX=/opt/qlora".into(),
    ]);
    command
}

/// Installs everything in `folder` and returns the directory of the programs.
fn install(folder: &Dir) -> PathBuf {
    Run::of(&mut make(folder, "install")).assert_code(0);
    folder.path("stage/opt/qlora/bin")
}
