//! A directory for unfinished files, on the file system of the result and locked against other fetches
//! of the same result. It is removed when the result is complete.

use std::time::Duration;

use common::error::Kind;
use common::{Context, Result};

use crate::disk::folder::{Entry, Folder};
use crate::disk::partial::PartialFile;

/// The name of the directory, in the directory of the result. No file that is fetched has this name.
pub(crate) const NAME: &str = ".qlora-tools-fetch";

/// The names that fetch makes in the directory: unfinished files, and what is about to get its final
/// name. Nothing else in it is ever removed.
const OURS: [&str; 6] = ["partial", "map", "record", "ref", "link", "previous.json"];
/// The names of files that an interrupted run has fetched, or was about to.
pub(crate) const BEGUN: &str = "begun.json";
/// The file in it that is locked. Nothing is written to it.
const LOCK: &str = "lock";

/// The scratch directory of this run.
pub(crate) struct Scratch {
    entry: Entry,
    folder: Folder,
    /// The lock, which is held for as long as this file is open.
    _lock: fs_err::File,
}

impl Scratch {
    /// Opens or makes the directory `name` in `parent`, and waits until no other fetch is using it.
    pub(crate) fn open(parent: &Folder, name: &str) -> Result<Self> {
        let entry = parent.entry(name);
        let mut told = false;
        loop {
            let folder = entry.make_folder()?;
            let lock = match folder.entry(LOCK).create_new() {
                Ok(Some(lock)) => lock,
                Ok(None) => match folder.entry(LOCK).open()? {
                    Some(lock) => lock,
                    None => continue,
                },
                // Whoever finished has just removed the directory.
                Err(error) if error.kind() == Kind::Missing => continue,
                Err(error) => return Err(error),
            };
            match lock.file().try_lock() {
                Ok(()) if is_at(&lock, &entry.entry(LOCK))? => {
                    return Ok(Self { entry, folder, _lock: lock });
                }
                // The lock of a directory that is gone guards nothing.
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        let path = parent.path().display();
                        common::cli::note(format_args!("another fetch is writing in {path}; waiting for it"));
                    }
                    std::thread::sleep(Duration::from_millis(100));
                    common::cli::check_interrupted()?;
                }
                Err(std::fs::TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", lock.path().display()));
                }
            }
        }
    }

    /// The directory itself.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// An entry of the directory.
    pub(crate) fn entry(&self, name: &str) -> Entry {
        self.folder.entry(name)
    }

    /// The growing file for the file `name` of the result.
    pub(crate) fn partial(&self, name: &str, size: u64, identity: String) -> PartialFile {
        PartialFile {
            data: self.entry("partial").entry(name),
            map: self.entry("map").entry(name),
            size,
            identity,
        }
    }

    /// Removes the directory, with all that was not needed in the end.
    ///
    /// The lock is removed last. From then on another fetch may use the directory, and then it stays.
    pub(crate) fn remove(self) -> Result<()> {
        for name in OURS.into_iter().chain([BEGUN, LOCK]) {
            self.entry(name).remove()?;
        }
        self.entry.remove_empty_folder()
    }
}

/// Whether the open file is the one at an entry.
fn is_at(file: &fs_err::File, entry: &Entry) -> Result<bool> {
    let open = rustix::fs::fstat(file.file()).map_err(std::io::Error::from)?;
    let there = entry.look()?;
    Ok(there.is_some_and(|there| (open.st_dev, open.st_ino) == (there.st_dev, there.st_ino)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    #[test]
    fn one_fetch_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let parent = Folder::make(parent.path()).unwrap();
        let first = Scratch::open(&parent, NAME).unwrap();
        let waiting = std::thread::spawn({
            let parent = parent.clone();
            move || Scratch::open(&parent, NAME).map(|scratch| scratch.folder().path().join("lock").exists())
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        first.remove().unwrap();
        assert!(waiting.join().unwrap().unwrap());
    }

    #[test]
    fn many_that_wait_for_it_get_it_one_after_the_other() {
        let parent = tempfile::tempdir().unwrap();
        let parent = Folder::make(parent.path()).unwrap();
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let scratch = Scratch::open(&parent, NAME).unwrap();
                        assert_eq!(inside.fetch_add(1, SeqCst), 0);
                        scratch.entry("partial/file").write(b"x").unwrap();
                        inside.fetch_sub(1, SeqCst);
                        scratch.remove().unwrap();
                    }
                });
            }
        });
        assert!(parent.names().unwrap().is_empty());
    }

    #[test]
    fn what_others_put_there_stays() {
        let parent = tempfile::tempdir().unwrap();
        let parent = Folder::make(parent.path()).unwrap();
        parent.entry(NAME).entry("thesis.tex").write(b"years").unwrap();
        Scratch::open(&parent, NAME).unwrap().remove().unwrap();
        assert_eq!(parent.entry(NAME).entry("thesis.tex").read(9).unwrap().unwrap(), b"years");
    }
}
