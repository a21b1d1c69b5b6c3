//! Keeps two processes from writing one result.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};

use crate::{Context, Result, error};

/// The right to write a path, held by a locked file `PATH.lock` beside it. Dropping it removes the
/// file; the kernel frees the lock of a process that dies, so that a file it left is in nobody's way.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// The right to write `path`. Fails where another process has it.
    pub fn of(path: &Path) -> Result<Self> {
        let mut name = OsString::from(path.components().as_path());
        name.push(".lock");
        let lock = PathBuf::from(name);
        loop {
            let file = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
            file.try_lock().map_err(|_| {
                error!("another process is writing {}", path.display())
                    .hint("wait for it, or choose another name with -o")
            })?;
            // Whoever held it may have removed the file between the two calls above.
            if std::fs::metadata(&lock).is_ok_and(|found| is_same(&found, &file.metadata())) {
                return Ok(Self { path: lock, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs_err::remove_file(&self.path);
    }
}

#[cfg(unix)]
fn is_same(found: &Metadata, locked: &std::io::Result<Metadata>) -> bool {
    use std::os::unix::fs::MetadataExt;
    locked.as_ref().is_ok_and(|locked| (found.dev(), found.ino()) == (locked.dev(), locked.ino()))
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, _: &std::io::Result<Metadata>) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out/");
        let lock = Lock::of(&path).unwrap();
        assert!(folder.path().join("out.lock").exists(), "beside, not within");
        assert!(Lock::of(&path).unwrap_err().to_string().contains("another process"));
        drop(lock);
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Lock::of(&path).is_ok());
    }
}
