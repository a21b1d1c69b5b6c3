//! Where the files of a repository go: a directory of the user's, or the hub's cache.
//!
//! | file | what it is |
//! |---|---|
//! | `directory`, `cache` | the two layouts |
//! | `record` | `fetch.json`, which says that a directory is complete |
//! | `standing` | a copy that is there already, found without a request |
//! | `check` | `--verify` |

mod cache;
pub(crate) mod check;
pub(crate) mod directory;
pub(crate) mod record;
pub(crate) mod standing;

use std::collections::HashSet;
use std::path::PathBuf;

use common::Result;

use crate::config::{Config, Destination};
use crate::disk::folder::Entry;
use crate::disk::partial::PartialFile;
use crate::disk::scratch::Scratch;
use crate::hub::Repository;
use crate::layout::cache::Cache;
use crate::layout::directory::Directory;
use crate::layout::record::Record;
use crate::select::plan::PlannedFile;

/// A place that is being filled.
pub(crate) enum Layout {
    /// `-o DIR`.
    Directory(Directory),
    /// `--cache`.
    Cache(Cache),
}

impl Layout {
    /// Opens the place for a commit, and waits until no other fetch is filling it.
    pub(crate) fn open(config: &Config, repository: &Repository, commit: &str) -> Result<Self> {
        match &config.destination {
            Destination::Path(root) => Directory::open(root).map(Self::Directory),
            Destination::Cache(root) => {
                Cache::open(root, repository, &config.revision, commit).map(Self::Cache)
            }
        }
    }

    /// The directory in which files grow.
    pub(crate) fn scratch(&self) -> &Scratch {
        match self {
            Self::Directory(directory) => &directory.scratch,
            Self::Cache(cache) => &cache.scratch,
        }
    }

    /// The directory to print.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.root().to_path_buf(),
            Self::Cache(cache) => cache.snapshot().path(),
        }
    }

    /// The record, which is there once all files are.
    pub(crate) fn record(&self) -> Entry {
        match self {
            Self::Directory(directory) => directory.record(),
            Self::Cache(cache) => cache.record(),
        }
    }

    /// The record of the place when it was last complete.
    pub(crate) fn last_record(&self) -> Result<Option<Record>> {
        match self {
            Self::Directory(directory) => directory.last_record(),
            Self::Cache(cache) => Record::read(&cache.record()),
        }
    }

    /// The records of runs that did not end; none in the cache, whose blobs are named by their content.
    pub(crate) fn begun(&self) -> Result<Vec<Record>> {
        match self {
            Self::Directory(directory) => directory.begun(),
            Self::Cache(_) => Ok(Vec::new()),
        }
    }

    /// The entry that holds the bytes of a complete file.
    pub(crate) fn bytes_of(&self, file: &PlannedFile) -> Result<Entry> {
        match self {
            Self::Directory(directory) => Ok(directory.entry(&file.path)),
            Self::Cache(cache) => cache.blob(file),
        }
    }

    /// Whether any wrong content may be replaced. In the cache it may: a blob that does not hash to its
    /// name is of no use.
    pub(crate) fn may_replace_all(&self) -> bool {
        matches!(self, Self::Cache(_))
    }

    /// Marks the place as incomplete, before files change.
    pub(crate) fn begin_change(&self, record: &Record) -> Result<()> {
        match self {
            Self::Directory(directory) => directory.begin_change(record),
            Self::Cache(_) => Ok(()),
        }
    }

    /// Gives a complete file its final name.
    pub(crate) fn place(&self, file: &PlannedFile, partial: &PartialFile) -> Result<PathBuf> {
        match self {
            Self::Directory(directory) => directory.place(&file.path, partial),
            Self::Cache(cache) => cache.place(file, partial),
        }
    }

    /// The path to print of a file whose bytes are there already.
    pub(crate) fn found(&self, file: &PlannedFile) -> Result<PathBuf> {
        match self {
            Self::Directory(directory) => Ok(directory.entry(&file.path).path()),
            Self::Cache(cache) => cache.link(file),
        }
    }

    /// Removes files that earlier runs wrote and that the repository no longer has.
    pub(crate) fn remove_stale(&self, known: &[Record], listed: &HashSet<&str>) -> Result<()> {
        match self {
            Self::Directory(directory) => directory.remove_stale(known, listed),
            // Every commit has a snapshot of its own.
            Self::Cache(_) => Ok(()),
        }
    }

    /// Marks the place as complete.
    pub(crate) fn complete(self, record: &Record) -> Result<()> {
        match self {
            Self::Directory(directory) => directory.complete(record),
            Self::Cache(cache) => cache.complete(record),
        }
    }
}
