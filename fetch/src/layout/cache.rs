//! The hub's own cache, shared with its Python tools.
//!
//! `models--OWNER--NAME/` holds `blobs/HASH` (the bytes), `snapshots/COMMIT/PATH` (relative links
//! to them) and `refs/REVISION` (a commit). A blob is named by the sha256 of a large file and by
//! the git object name of any other. Two things are fetch's own: `.fetched/COMMIT.json`, the record of
//! what has been checked, and the directory of [`crate::disk::scratch`] while files grow.

use std::path::{Path, PathBuf};

use common::{Context, Result};

use crate::disk::folder::{Entry, Folder};
use crate::disk::partial::PartialFile;
use crate::disk::scratch::{self, Scratch};
use crate::hub::{Repository, is_commit};
use crate::layout::record::Record;
use crate::select::plan::PlannedFile;

const TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# This is a cache of files from a model hub.\n";
/// Most bytes of a ref, which holds a commit.
const LONGEST_REF: u64 = 4096;

/// The directory of a repository inside the cache.
pub(super) fn directory_name(repository: &Repository) -> String {
    common::hub_cache::directory_name(&repository.id, repository.kind.plural())
}

/// The commit that a repository's directory in the cache knows for `revision`.
pub(super) fn known_commit(repository_root: &Folder, revision: &str) -> Option<String> {
    if is_commit(revision) {
        return Some(revision.to_string());
    }
    crate::select::names::check(revision).ok()?;
    let commit = repository_root.entry("refs").entry(revision).read(LONGEST_REF).ok()??;
    let commit = String::from_utf8(commit).ok()?;
    Some(commit.trim().to_string()).filter(|commit| is_commit(commit))
}

/// The snapshot of a commit.
pub(super) fn snapshot(repository_root: &Folder, commit: &str) -> Entry {
    repository_root.entry("snapshots").entry(commit)
}

/// The record of what has been checked of a commit.
pub(super) fn record(repository_root: &Folder, commit: &str) -> Entry {
    repository_root.entry(".fetched").entry(format!("{commit}.json"))
}

/// One commit of a repository in the cache, being filled.
pub(crate) struct Cache {
    root: Folder,
    revision: String,
    commit: String,
    /// The directory in which the files grow.
    pub scratch: Scratch,
}

impl Cache {
    /// Opens or makes the repository's place in the cache at `path`.
    pub(crate) fn open(path: &Path, repository: &Repository, revision: &str, commit: &str) -> Result<Self> {
        crate::select::names::check(revision).context("--revision")?;
        if !is_commit(commit) {
            return Err(common::error!(
                "{}: the server names no commit, without which nothing can be cached",
                repository.id
            )
            .hint("leave out --cache"));
        }
        let cache = Folder::make(path)?;
        let root = cache.entry(directory_name(repository)).make_folder()?;
        if let Some(mut tag) = cache.entry("CACHEDIR.TAG").create_new()? {
            std::io::Write::write_all(&mut tag, TAG.as_bytes())?;
        }
        let scratch = Scratch::open(&root, scratch::NAME)?;
        Ok(Self { root, revision: revision.into(), commit: commit.into(), scratch })
    }

    /// The snapshot being filled.
    pub(crate) fn snapshot(&self) -> Entry {
        snapshot(&self.root, &self.commit)
    }

    /// Where the record of what has been checked goes.
    pub(crate) fn record(&self) -> Entry {
        record(&self.root, &self.commit)
    }

    /// The blob of a file.
    pub(crate) fn blob(&self, file: &PlannedFile) -> Result<Entry> {
        let digest = file.digest.as_ref().ok_or_else(|| {
            common::error!("{}: the server names no hash, without which it cannot be cached", file.path)
                .hint("leave out --cache")
        })?;
        Ok(self.root.entry("blobs").entry(digest.hex()))
    }

    /// Moves a complete file into the cache and links it into the snapshot.
    pub(crate) fn place(&self, file: &PlannedFile, partial: &PartialFile) -> Result<PathBuf> {
        partial.place(&self.blob(file)?)?;
        self.link(file)
    }

    /// Links a blob that is there into the snapshot.
    pub(crate) fn link(&self, file: &PlannedFile) -> Result<PathBuf> {
        let (blob, link) = (self.blob(file)?.path(), self.snapshot().entry(&file.path));
        let up = "../".repeat(2 + file.path.matches('/').count());
        let target = PathBuf::from(up).join("blobs").join(blob.file_name().unwrap_or_default());
        if link.link_target()?.as_ref() != Some(&target) {
            // A link appears whole, in place of whatever was there.
            let beside = self.scratch.entry("link");
            beside.link_to(&target)?;
            beside.rename_to(&link)?;
        }
        Ok(link.path())
    }

    /// Makes the revision name the commit: the snapshot is complete.
    pub(crate) fn complete(self, record: &Record) -> Result<()> {
        record.write(&self.record(), &self.scratch.entry("record"))?;
        if self.revision != self.commit {
            let beside = self.scratch.entry("ref");
            beside.write(self.commit.as_bytes())?;
            beside.rename_to(&self.root.entry("refs").entry(&self.revision))?;
        }
        self.scratch.remove()
    }
}
