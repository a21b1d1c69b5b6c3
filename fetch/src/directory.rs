//! The plain layout: a directory with the repository's files under their own names.

use std::path::{Path, PathBuf};

use common::{Result, bail};

use crate::partial::PartialFile;
use crate::record::{self, Record};
use crate::scratch::Scratch;

/// What the tool keeps inside a directory it has not finished.
pub const SCRATCH: &str = ".fetch";

/// A directory being filled.
pub struct Directory {
    root: PathBuf,
    /// Where its files grow.
    pub scratch: Scratch,
}

impl Directory {
    /// Opens or makes the directory, and waits until no other fetch is filling it.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self { root: root.into(), scratch: Scratch::open(&root.join(SCRATCH))? })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the record of a complete directory is.
    pub fn record_path(&self) -> PathBuf {
        self.root.join(record::FILE)
    }

    /// The record of the directory when it was last complete, whether or not it still is.
    pub fn last_record(&self) -> Result<Option<Record>> {
        match Record::read(&self.record_path())? {
            Some(record) => Ok(Some(record)),
            None => Record::read(&self.previous_record_path()),
        }
    }

    /// Says that the directory is no longer complete. What it held stays known.
    pub fn begin_change(&self) -> Result<()> {
        match fs_err::rename(self.record_path(), self.previous_record_path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The final path of `name`. Fails where a directory on the way is a link to elsewhere.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        let between = path.ancestors().skip(1).take_while(|ancestor| *ancestor != self.root);
        for ancestor in between {
            if let Ok(found) = fs_err::symlink_metadata(ancestor)
                && !found.is_dir()
            {
                bail!(Exists, "{}: expected a directory, found something else", ancestor.display());
            }
        }
        Ok(path)
    }

    /// Gives a complete file its final name.
    pub fn place(&self, name: &str, partial: &PartialFile) -> Result<PathBuf> {
        let path = self.path(name)?;
        partial.place(&path)?;
        Ok(path)
    }

    /// Writes the record and removes what is no longer needed: the directory is complete.
    pub fn complete(self, record: &Record) -> Result<()> {
        record.write(&self.record_path(), &self.scratch.join("record"))?;
        fs_err::File::open(&self.root)?.sync_all()?;
        self.scratch.remove()
    }

    fn previous_record_path(&self) -> PathBuf {
        self.scratch.join("previous.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_placed_through_a_link() {
        let outside = tempfile::tempdir().unwrap();
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("d");
        let directory = Directory::open(&root).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("sub")).unwrap();
        assert!(directory.path("sub/x").is_err());
        assert!(directory.path("other/x").is_ok());
    }
}
