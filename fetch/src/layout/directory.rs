//! The plain layout: a directory with the repository's files under their own names.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use common::cli::{note, warn};
use common::{Result, error};

use crate::disk::folder::{Entry, Folder};
use crate::disk::partial::PartialFile;
use crate::disk::scratch::{self, Scratch};
use crate::layout::record::{Record, is_unchanged};
use crate::select::names::RECORD;
use crate::select::plan::some;

/// A directory being filled.
pub(crate) struct Directory {
    root: Folder,
    /// The directory in which the files grow.
    pub scratch: Scratch,
}

impl Directory {
    /// Opens or makes the directory, and waits until no other fetch is filling it.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let root = Folder::make(root)?;
        let scratch = Scratch::open(&root, scratch::NAME)?;
        Ok(Self { root, scratch })
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Where the record of a complete directory is.
    pub(crate) fn record(&self) -> Entry {
        self.root.entry(RECORD)
    }

    /// The record of the directory when it was last complete, whether or not it still is.
    pub(crate) fn last_record(&self) -> Result<Option<Record>> {
        match Record::read(&self.record())? {
            Some(record) => Ok(Some(record)),
            None => Record::read(&self.previous_record()),
        }
    }

    /// The records of runs that did not end: they list what those runs wrote, or were about to write.
    pub(crate) fn begun(&self) -> Result<Vec<Record>> {
        Record::read_list(&self.scratch.entry(scratch::BEGUN))
    }

    /// Marks the directory as incomplete. What it held, and what it is about to hold, stays recorded in the
    /// scratch directory.
    pub(crate) fn begin_change(&self, record: &Record) -> Result<()> {
        let mut begun = self.begun()?;
        if !begun.contains(record) {
            begun.push(record.clone());
            Record::write_list(&begun, &self.scratch.entry(scratch::BEGUN))?;
        }
        match self.record().look()? {
            Some(_) => self.record().rename_to(&self.previous_record()),
            None => Ok(()),
        }
    }

    /// The entry of the file `name`.
    pub(crate) fn entry(&self, name: &str) -> Entry {
        self.root.entry(name)
    }

    /// Gives a complete file its final name.
    pub(crate) fn place(&self, name: &str, partial: &PartialFile) -> Result<PathBuf> {
        let entry = self.entry(name);
        partial.place(&entry)?;
        Ok(entry.path())
    }

    /// Removes files that earlier runs wrote and that are not in `listed`, the files of the repository. A
    /// file that was changed since stays.
    pub(crate) fn remove_stale(&self, known: &[Record], listed: &HashSet<&str>) -> Result<()> {
        let mut removed = Vec::new();
        let mut seen = HashSet::new();
        for file in known.iter().flat_map(|record| &record.files) {
            let entry = self.entry(&file.path);
            if listed.contains(file.path.as_str()) || !seen.insert(&file.path) || entry.look()?.is_none() {
                continue;
            }
            let versions = known.iter().flat_map(|record| &record.files).filter(|one| one.path == file.path);
            let mut is_ours = false;
            for version in versions {
                is_ours |= is_unchanged(&entry.path(), version)?;
            }
            if is_ours {
                entry.remove()?;
                removed.push(file.path.clone());
            } else {
                let path = entry.path();
                warn(format_args!("{} is no longer in the repository, and was changed here", path.display()));
            }
        }
        if !removed.is_empty() {
            note(format_args!("removed what the repository no longer has: {}", some(&removed)));
        }
        Ok(())
    }

    /// Writes the record and removes what is no longer needed: the directory is complete.
    pub(crate) fn complete(self, record: &Record) -> Result<()> {
        record.write(&self.record(), &self.scratch.entry("record"))?;
        self.root.sync()?;
        self.scratch.remove()
    }

    fn previous_record(&self) -> Entry {
        self.scratch.entry("previous.json")
    }
}

/// The error for a file that is in the way and that no fetch put there.
pub(crate) fn in_the_way(path: &Path, is_listed: bool) -> common::Error {
    let error = error!("{} exists and is not the repository's file", path.display());
    error.hint(match is_listed {
        true => "--force replaces it, -o chooses another directory",
        false => "move it away, or choose another directory with -o",
    })
}
