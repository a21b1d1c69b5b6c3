//! The hub's own cache, shared with its Python tools.
//!
//! `models--OWNER--NAME/` holds `blobs/HASH` (the bytes), `snapshots/COMMIT/PATH` (relative links
//! to them) and `refs/REVISION` (a commit). A blob is named by the sha256 of a large file and by
//! the git object name of any other. Ours besides: `.fetch` while files grow, and
//! `.fetched/COMMIT.json`, the record of what has been checked.

use std::path::{Path, PathBuf};

use common::{Context, Error, Result};

use crate::hub::{Repository, is_commit};
use crate::partial::PartialFile;
use crate::plan::PlannedFile;
use crate::record::Record;
use crate::scratch::Scratch;

const TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# This is a cache of files from a model hub.\n";

/// The directory that holds the hub's cache and token: `HF_HOME`, or `huggingface` under
/// `XDG_CACHE_HOME`, or `~/.cache/huggingface`.
pub fn hub_home() -> Option<PathBuf> {
    variable("HF_HOME")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/huggingface")))
}

/// Where the cache is: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, or `hub` in [`hub_home`].
pub fn root() -> Result<PathBuf> {
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| hub_home().map(|home| home.join("hub")))
        .ok_or_else(|| Error::usage("--cache: there is no home directory").hint("set HF_HOME"))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The directory of a repository inside the cache at `root`.
pub fn repository_root(root: &Path, repository: &Repository) -> PathBuf {
    root.join(format!("{}--{}", repository.kind.plural(), repository.id.replace('/', "--")))
}

/// The commit that the cache knows for `revision`.
pub fn known_commit(repository_root: &Path, revision: &str) -> Option<String> {
    if is_commit(revision) {
        return Some(revision.to_string());
    }
    let commit = fs_err::read_to_string(repository_root.join("refs").join(revision)).ok()?;
    Some(commit.trim().to_string()).filter(|commit| is_commit(commit))
}

/// The snapshot of a commit.
pub fn snapshot(repository_root: &Path, commit: &str) -> PathBuf {
    repository_root.join("snapshots").join(commit)
}

/// The record of what has been checked of a commit.
pub fn record_path(repository_root: &Path, commit: &str) -> PathBuf {
    repository_root.join(".fetched").join(format!("{commit}.json"))
}

/// One commit of a repository in the cache, being filled.
pub struct Cache {
    repository_root: PathBuf,
    revision: String,
    commit: String,
    /// Where its files grow.
    pub scratch: Scratch,
}

impl Cache {
    /// Opens or makes the repository's place in the cache at `root`.
    pub fn open(root: &Path, repository: &Repository, revision: &str, commit: &str) -> Result<Self> {
        crate::names::check(revision).context("--revision")?;
        if !is_commit(commit) {
            return Err(common::error!(
                "{}: the server names no commit, without which nothing can be cached",
                repository.id
            )
            .hint("leave out --cache"));
        }
        let repository_root = repository_root(root, repository);
        fs_err::create_dir_all(&repository_root)?;
        let tag = root.join("CACHEDIR.TAG");
        if !tag.exists() {
            fs_err::write(tag, TAG)?;
        }
        let scratch = Scratch::open(&repository_root.join(".fetch"))?;
        Ok(Self { repository_root, revision: revision.into(), commit: commit.into(), scratch })
    }

    /// The snapshot being filled.
    pub fn snapshot(&self) -> PathBuf {
        snapshot(&self.repository_root, &self.commit)
    }

    /// Where the record of what has been checked goes.
    pub fn record_path(&self) -> PathBuf {
        record_path(&self.repository_root, &self.commit)
    }

    /// The blob of a file.
    pub fn blob(&self, file: &PlannedFile) -> Result<PathBuf> {
        let digest = file.digest.as_ref().ok_or_else(|| {
            common::error!("{}: the server names no hash, without which it cannot be cached", file.path)
                .hint("leave out --cache")
        })?;
        Ok(self.repository_root.join("blobs").join(digest.hex()))
    }

    /// Moves a complete file into the cache and links it into the snapshot.
    pub fn place(&self, file: &PlannedFile, partial: &PartialFile) -> Result<PathBuf> {
        partial.place(&self.blob(file)?)?;
        self.link(file)
    }

    /// Links a blob that is there into the snapshot.
    pub fn link(&self, file: &PlannedFile) -> Result<PathBuf> {
        let (blob, path) = (self.blob(file)?, self.snapshot().join(&file.path));
        let up = "../".repeat(2 + file.path.matches('/').count());
        let target = PathBuf::from(up).join("blobs").join(blob.file_name().unwrap_or_default());
        if fs_err::read_link(&path).ok().as_ref() == Some(&target) {
            return Ok(path);
        }
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        // A link appears whole, in place of whatever was there.
        let beside = self.scratch.join("link");
        let _ = fs_err::remove_file(&beside);
        fs_err::os::unix::fs::symlink(&target, &beside)?;
        fs_err::rename(&beside, &path)?;
        Ok(path)
    }

    /// Makes the revision name the commit: the snapshot is complete.
    pub fn complete(self, record: &Record) -> Result<()> {
        let record_path = self.record_path();
        fs_err::create_dir_all(record_path.parent().unwrap_or(&record_path))?;
        record.write(&record_path, &self.scratch.join("record"))?;
        if self.revision != self.commit {
            let path = self.repository_root.join("refs").join(&self.revision);
            fs_err::create_dir_all(path.parent().unwrap_or(&path))?;
            let beside = self.scratch.join("ref");
            fs_err::write(&beside, &self.commit)?;
            fs_err::rename(beside, path)?;
        }
        self.scratch.remove()
    }
}
