//! Places besides inputs and outputs: the user's cache, and the programs of the other tools.

use std::path::PathBuf;

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

/// The path of another tool's program: beside this program, or else its name, to be found on the PATH.
pub fn tool_path(name: &str) -> PathBuf {
    let beside = std::env::current_exe().map(|this| this.with_file_name(name));
    beside.ok().filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name))
}
