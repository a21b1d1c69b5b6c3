//! Places besides inputs and outputs: the user's cache, and the programs of the other tools.

use std::path::PathBuf;
use std::process::Command;

use crate::{Context, Result, error};

/// The directory `name` in the user's cache (`XDG_CACHE_HOME`, else `~/.cache`), created.
pub fn cache_directory(name: &str) -> Result<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
    let cache = cache.ok_or_else(|| {
        error!("neither XDG_CACHE_HOME nor HOME is set").hint("export XDG_CACHE_HOME=$PWD/cache")
    })?;
    let directory = cache.join("qlora-tools").join(name);
    fs_err::create_dir_all(&directory).context("cannot make the cache")?;
    Ok(directory)
}

/// Returns a command that runs another tool: this program where it is `qlora`, which has all tools; otherwise
/// the tool's program beside this one, or the one on the PATH.
pub fn tool_command(name: &str) -> Command {
    let Ok(this) = std::env::current_exe() else { return Command::new(name) };
    let beside = this.with_file_name(name);
    if this.file_name().is_some_and(|program| program == "qlora") {
        let mut command = Command::new(this);
        command.arg(name);
        command
    } else if beside.is_file() {
        Command::new(beside)
    } else {
        Command::new(name)
    }
}
