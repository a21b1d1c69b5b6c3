//! A directory for what is not finished, on the file system of the result and locked against other
//! fetches of the same result. It goes when all is done.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Context, Result};

use crate::partial::PartialFile;

/// The file in it that is locked.
const LOCK: &str = "lock";

/// The scratch directory of this run.
pub struct Scratch {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: std::fs::File,
}

impl Scratch {
    /// Opens or makes it, and waits until no other fetch is using it.
    pub fn open(path: &Path) -> Result<Self> {
        let lock_path = path.join(LOCK);
        let mut told = false;
        loop {
            match fs_err::create_dir_all(path) {
                // It was there and is gone: whoever finished has just removed it.
                Err(error)
                    if error.kind() == ErrorKind::AlreadyExists && path.symlink_metadata().is_err() =>
                {
                    continue;
                }
                made => made?,
            }
            let lock = match fs_err::File::create(&lock_path) {
                Ok(lock) => lock.into_file(),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            match lock.try_lock() {
                Ok(()) if is_the_file_at(&lock, &lock_path) => {
                    return Ok(Self { path: path.into(), _lock: lock });
                }
                // The lock of a directory that is gone guards nothing.
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        common::cli::note(format_args!(
                            "another fetch is using {}; waiting for it",
                            path.display()
                        ));
                    }
                    std::thread::sleep(Duration::from_millis(100));
                    common::cli::check_interrupted()?;
                }
                Err(std::fs::TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", lock_path.display()));
                }
            }
        }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where the file `name` grows.
    pub fn partial(&self, name: &str, size: u64, identity: String) -> PartialFile {
        PartialFile {
            data: self.path.join("partial").join(name),
            map: self.path.join("map").join(name),
            size,
            identity,
        }
    }

    /// Removes it, with all that was not needed in the end.
    ///
    /// The lock goes last. From then on the directory may be another fetch's, which keeps it.
    pub fn remove(self) -> Result<()> {
        for entry in fs_err::read_dir(&self.path)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs_err::remove_dir_all(entry.path())?,
                false if entry.file_name() == LOCK => {}
                false => fs_err::remove_file(entry.path())?,
            }
        }
        fs_err::remove_file(self.path.join(LOCK))?;
        match fs_err::remove_dir(&self.path) {
            Err(error) if !matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }
}

fn is_the_file_at(file: &std::fs::File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs_err::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    #[test]
    fn one_fetch_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("scratch");
        let first = Scratch::open(&path).unwrap();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || Scratch::open(&path).map(|scratch| scratch.join("lock").exists())
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        first.remove().unwrap();
        assert!(waiting.join().unwrap().unwrap());
    }

    #[test]
    fn many_that_wait_for_it_get_it_one_after_the_other() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("scratch");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let scratch = Scratch::open(&path).unwrap();
                        assert_eq!(inside.fetch_add(1, SeqCst), 0);
                        fs_err::create_dir_all(scratch.join("partial")).unwrap();
                        inside.fetch_sub(1, SeqCst);
                        scratch.remove().unwrap();
                    }
                });
            }
        });
        assert!(!path.exists());
    }
}
