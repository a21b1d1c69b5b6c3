//! Where the files of a repository go: a directory of the user's, or the hub's cache.

use std::path::PathBuf;

use common::Result;

use crate::cache::{self, Cache};
use crate::config::{Config, Destination};
use crate::directory::Directory;
use crate::hub::Repository;
use crate::partial::PartialFile;
use crate::plan::PlannedFile;
use crate::record::{self, Record};
use crate::scratch::Scratch;

/// A place being filled.
pub enum Layout {
    /// `-o DIR`.
    Directory(Directory),
    /// `--cache`.
    Cache(Cache),
}

/// A place that is complete, or was.
pub struct Finished {
    /// The directory to name downstream.
    pub path: PathBuf,
    /// Its record.
    pub record: Record,
}

impl Layout {
    /// Opens the place for a commit, and waits until no other fetch is filling it.
    pub fn open(config: &Config, repository: &Repository, commit: &str) -> Result<Self> {
        match &config.destination {
            Destination::Path(root) => Directory::open(root).map(Self::Directory),
            Destination::Cache(root) => {
                Cache::open(root, repository, &config.revision, commit).map(Self::Cache)
            }
        }
    }

    /// What is complete at the place, found without asking the hub.
    pub fn finished(config: &Config, repository: &Repository) -> Result<Option<Finished>> {
        let (path, record_path) = match &config.destination {
            Destination::Path(root) => (root.clone(), root.join(record::FILE)),
            Destination::Cache(root) => {
                let root = cache::repository_root(root, repository);
                let Some(commit) = cache::known_commit(&root, &config.revision) else { return Ok(None) };
                (cache::snapshot(&root, &commit), cache::record_path(&root, &commit))
            }
        };
        Ok(Record::read(&record_path)?.map(|record| Finished { path, record }))
    }

    /// Where files grow.
    pub fn scratch(&self) -> &Scratch {
        match self {
            Self::Directory(directory) => &directory.scratch,
            Self::Cache(cache) => &cache.scratch,
        }
    }

    /// The directory to name downstream.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.root().to_path_buf(),
            Self::Cache(cache) => cache.snapshot(),
        }
    }

    /// Where the record is once all is there.
    pub fn record_path(&self) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.record_path(),
            Self::Cache(cache) => cache.record_path(),
        }
    }

    /// What the place held when it was last complete.
    pub fn last_record(&self) -> Result<Option<Record>> {
        match self {
            Self::Directory(directory) => directory.last_record(),
            Self::Cache(cache) => Record::read(&cache.record_path()),
        }
    }

    /// Where the bytes of a file are when it is complete.
    pub fn bytes_of(&self, file: &PlannedFile) -> Result<PathBuf> {
        match self {
            Self::Directory(directory) => directory.path(&file.path),
            Self::Cache(cache) => cache.blob(file),
        }
    }

    /// Whether bytes that are not the wanted ones may be replaced; `is_ours` knows of a directory.
    pub fn may_replace(&self, is_ours: impl FnOnce() -> Result<bool>) -> Result<bool> {
        match self {
            Self::Directory(_) => is_ours(),
            // A blob that does not hash to its name is no use to anybody.
            Self::Cache(_) => Ok(true),
        }
    }

    /// Files are about to change: the place is not complete for now.
    pub fn begin_change(&self) -> Result<()> {
        match self {
            Self::Directory(directory) => directory.begin_change(),
            Self::Cache(_) => Ok(()),
        }
    }

    /// Gives a complete file its final name.
    pub fn place(&self, file: &PlannedFile, partial: &PartialFile) -> Result<PathBuf> {
        match self {
            Self::Directory(directory) => directory.place(&file.path, partial),
            Self::Cache(cache) => cache.place(file, partial),
        }
    }

    /// The name downstream of a file whose bytes are there already.
    pub fn found(&self, file: &PlannedFile) -> Result<PathBuf> {
        match self {
            Self::Directory(directory) => directory.path(&file.path),
            Self::Cache(cache) => cache.link(file),
        }
    }

    /// All is there.
    pub fn complete(self, record: &Record) -> Result<()> {
        match self {
            Self::Directory(directory) => directory.complete(record),
            Self::Cache(cache) => cache.complete(record),
        }
    }
}
