//! Files of rank 0, on all ranks of a run. Other ranks may be on machines that cannot read its disk.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use fs_err::File;
use tempfile::TempDir;

use super::exchange::World;
use crate::{Context, Result, error};

/// The bytes of a file that are sent at a time.
const CHUNK: u64 = 4 << 20;

/// A directory of rank 0, as a rank can read it.
pub struct DirectoryOfFirst {
    path: PathBuf,
    /// The copy that a rank other than 0 has, which is removed in the end.
    _copy: Option<TempDir>,
}

impl DirectoryOfFirst {
    /// The directory itself on rank 0, a copy elsewhere.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl World {
    /// Copies what rank 0 reads from `from` to `to` on all other ranks.
    pub fn copy(&self, from: &mut dyn Read, to: &mut dyn Write) -> Result<()> {
        let Some(star) = &self.star else { return Ok(()) };
        loop {
            let mut chunk = Vec::new();
            if self.is_first() {
                from.take(CHUNK).read_to_end(&mut chunk).context("cannot read what other ranks need")?;
            }
            let chunk = star.spread(chunk)?;
            if chunk.is_empty() {
                return Ok(());
            }
            if !self.is_first() {
                to.write_all(&chunk).context("cannot keep what rank 0 sends")?;
            }
        }
    }

    /// The directory of rank 0 at `path` with the files in it, on all ranks. What other ranks find at `path` is not
    /// looked at, because it may be of another run.
    pub fn directory(&self, path: &Path) -> Result<DirectoryOfFirst> {
        if self.star.is_none() {
            return Ok(DirectoryOfFirst { path: path.to_owned(), _copy: None });
        }
        let names = self.from_first(|| names(path))?;
        if self.is_first() {
            for name in names {
                self.copy(&mut File::open(path.join(name))?, &mut io::sink())?;
            }
            return Ok(DirectoryOfFirst { path: path.to_owned(), _copy: None });
        }
        let copy = tempfile::tempdir().context("cannot keep the files of rank 0")?;
        for name in names {
            if Path::new(&name).file_name() != Some(name.as_ref()) {
                return Err(error!(Bug, "a file of rank 0 is called {name:?}"));
            }
            self.copy(&mut io::empty(), &mut File::create(copy.path().join(name))?)?;
        }
        Ok(DirectoryOfFirst { path: copy.path().to_owned(), _copy: Some(copy) })
    }
}

/// The names of the files in a directory.
fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    Ok(names)
}
