//! The hub's own cache, shared with its Python tools.

use std::path::PathBuf;

/// The directory that holds the hub's cache and token: `HF_HOME`, or `huggingface` under
/// `XDG_CACHE_HOME`, or `~/.cache/huggingface`.
pub fn hub_home() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HF_HOME")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/huggingface")))
}
