//! The cache that the hub's own tools and `fetch --cache` share, and the models in it by their names on
//! the hub.
//!
//! `models--OWNER--NAME/refs/REVISION` holds a commit, and `snapshots/COMMIT` the files of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::files;

/// The directory that holds the hub's cache and token: `HF_HOME`, or `huggingface` under
/// `XDG_CACHE_HOME`, or `~/.cache/huggingface`.
pub fn home() -> Option<PathBuf> {
    variable("HF_HOME")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/huggingface")))
}

/// The directory of the cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, or `hub` in [`home`].
pub fn root() -> Option<PathBuf> {
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| home().map(|home| home.join("hub")))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The cache's snapshot of the model `OWNER/NAME` (or `NAME`): that of its branch `main`, or else the
/// only one. `None` for anything else, such as a path.
pub fn model(name: &Path) -> Option<PathBuf> {
    let snapshot = find(name.to_str()?, "models")?;
    snapshot.join("config.json").exists().then_some(snapshot)
}

/// The directory that a user means by `named`: a path that exists, or else a model of that name in the
/// cache.
pub fn resolve(named: &Path) -> PathBuf {
    let found = if named.exists() { None } else { model(named) };
    found.unwrap_or_else(|| named.to_path_buf())
}

/// The cache's snapshot of a repository of a kind (`models`, `datasets`), whatever it holds.
pub fn find(name: &str, kind: &str) -> Option<PathBuf> {
    if !is_repository(name) {
        return None;
    }
    find_in(&root()?, name, kind)
}

/// The name that results are named after: the model's where the directory is a snapshot in the cache, else
/// the directory's. `None` where the path has no name.
pub fn name_of(directory: &Path) -> Option<OsString> {
    let of_snapshot = || {
        let snapshots = directory.parent().filter(|parent| parent.ends_with("snapshots"))?;
        let repository = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
        Some(repository.rsplit("--").next()?.into())
    };
    of_snapshot().or_else(|| directory.file_name().map(OsString::from))
}

/// The directory of a repository in the cache: `models--OWNER--NAME` for the kind `models`.
pub fn directory_name(name: &str, kind: &str) -> String {
    format!("{kind}--{}", name.replace('/', "--"))
}

fn find_in(root: &Path, name: &str, kind: &str) -> Option<PathBuf> {
    let repository = root.join(directory_name(name, kind));
    let snapshots = repository.join("snapshots");
    if let Ok(commit) = files::read_text(&repository.join("refs/main"), 4096) {
        let commit = commit.trim();
        let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        return Some(snapshots.join(commit)).filter(|snapshot| is_commit && snapshot.is_dir());
    }
    let mut found = std::fs::read_dir(snapshots).ok()?.flatten();
    match (found.next(), found.next()) {
        (Some(only), None) => Some(only.path()).filter(|snapshot| snapshot.is_dir()),
        _ => None,
    }
}

/// Whether a text reads as the name of a repository.
fn is_repository(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    name.split('/').count() <= 2 && name.split('/').all(is_part) && !name.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_name_is_found_by_main_or_by_the_only_snapshot() {
        let root = tempfile::tempdir().unwrap();
        let repository = root.path().join("models--owner--name");
        let snapshot = repository.join("snapshots").join(COMMIT);
        fs_err::create_dir_all(&snapshot).unwrap();
        assert_eq!(find_in(root.path(), "owner/name", "models").unwrap(), snapshot);
        fs_err::create_dir_all(repository.join("snapshots/other")).unwrap();
        assert_eq!(find_in(root.path(), "owner/name", "models"), None);
        fs_err::create_dir_all(repository.join("refs")).unwrap();
        fs_err::write(repository.join("refs/main"), format!("{COMMIT}\n")).unwrap();
        assert_eq!(find_in(root.path(), "owner/name", "models").unwrap(), snapshot);
        fs_err::write(repository.join("refs/main"), "../../../elsewhere").unwrap();
        assert_eq!(find_in(root.path(), "owner/name", "models"), None);
        assert_eq!(name_of(&snapshot).unwrap(), "name");
        assert_eq!(name_of(Path::new("models/other")).unwrap(), "other");
    }

    #[test]
    fn only_names_of_repositories_are_looked_for() {
        for name in ["Qwen/Qwen2.5-0.5B", "gpt2"] {
            assert!(is_repository(name), "{name}");
        }
        for name in ["", "/a", "a/", "../a", "a/b/c", "-o/a", "a b/c", "a--b/c"] {
            assert!(!is_repository(name), "{name}");
        }
    }
}
