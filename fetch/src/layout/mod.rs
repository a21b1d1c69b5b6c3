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

/// A place being filled.
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

    /// Where files grow.
    pub(crate) fn scratch(&self) -> &Scratch {
        match self {
            Self::Directory(directory) => &directory.scratch,
            Self::Cache(cache) => &cache.scratch,
        }
    }

    /// The directory to name downstream.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.root().to_path_buf(),
            Self::Cache(cache) => cache.snapshot().path(),
        }
    }

    /// Where the record is once all is there.
    pub(crate) fn record(&self) -> Entry {
        match self {
            Self::Directory(directory) => directory.record(),
            Self::Cache(cache) => cache.record(),
        }
    }

    /// What the place held when it was last complete.
    pub(crate) fn last_record(&self) -> Result<Option<Record>> {
        match self {
            Self::Directory(directory) => directory.last_record(),
            Self::Cache(cache) => Record::read(&cache.record()),
        }
    }

    /// What runs that did not end have put there; in the cache, whose blobs are named by what they
    /// hold, nobody needs to know.
    pub(crate) fn begun(&self) -> Result<Vec<Record>> {
        match self {
            Self::Directory(directory) => directory.begun(),
            Self::Cache(_) => Ok(Vec::new()),
        }
    }

    /// Where the bytes of a file are when it is complete.
    pub(crate) fn bytes_of(&self, file: &PlannedFile) -> Result<Entry> {
        match self {
            Self::Directory(directory) => Ok(directory.entry(&file.path)),
            Self::Cache(cache) => cache.blob(file),
        }
    }

    /// Whether bytes that are not the wanted ones may be replaced whatever they are: a blob that does
    /// not hash to its name is no use to anybody.
    pub(crate) fn may_replace_all(&self) -> bool {
        matches!(self, Self::Cache(_))
    }

    /// Files are about to change: the place is not complete for now.
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

    /// The name downstream of a file whose bytes are there already.
    pub(crate) fn found(&self, file: &PlannedFile) -> Result<PathBuf> {
        match self {
            Self::Directory(directory) => Ok(directory.entry(&file.path).path()),
            Self::Cache(cache) => cache.link(file),
        }
    }

    /// Removes what earlier runs put there and the repository no longer has.
    pub(crate) fn remove_stale(&self, known: &[Record], listed: &HashSet<&str>) -> Result<()> {
        match self {
            Self::Directory(directory) => directory.remove_stale(known, listed),
            // Every commit has a snapshot of its own.
            Self::Cache(_) => Ok(()),
        }
    }

    /// All is there.
    pub(crate) fn complete(self, record: &Record) -> Result<()> {
        match self {
            Self::Directory(directory) => directory.complete(record),
            Self::Cache(cache) => cache.complete(record),
        }
    }
}
