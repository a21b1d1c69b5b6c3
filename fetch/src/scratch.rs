//! A directory for what is not finished, on the file system of the result and locked against other
//! fetches of the same result. It goes when all is done.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Context, Result};

use crate::partial::PartialFile;

/// The scratch directory of this run.
pub struct Scratch {
    path: PathBuf,
    lock: std::fs::File,
}

impl Scratch {
    /// Opens or makes it, and waits until no other fetch is using it.
    pub fn open(path: &Path) -> Result<Self> {
        let lock_path = path.join("lock");
        let mut told = false;
        loop {
            fs_err::create_dir_all(path)?;
            let lock = match fs_err::File::create(&lock_path) {
                Ok(lock) => lock.into_file(),
                // Whoever finished has just removed the directory.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            match lock.try_lock() {
                Ok(()) if is_the_file_at(&lock, &lock_path) => return Ok(Self { path: path.into(), lock }),
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
    pub fn remove(self) -> Result<()> {
        fs_err::remove_dir_all(&self.path)?;
        drop(self.lock);
        Ok(())
    }
}

fn is_the_file_at(file: &std::fs::File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs_err::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
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
}
