//! The directory in which a tool works on one result, and which keeps other processes out.
//!
//! Beside a result `NAME` it is called `.NAME.qlora-tools`; in a directory that grows it is called
//! `.qlora-tools`. The tool that works on the result makes it and removes it when the work is done. It
//! holds a locked file that names the tool. The same command finds it again after a kill. A directory,
//! file or link of that name which none of these tools made is never touched.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Destination;
use super::write::{self, remove};
use crate::disk::parent;
use crate::{Context, Error, Result, error, hex};

/// The name of the scratch directory within a directory that grows, and the end of its name beside a result.
pub(super) const SCRATCH: &str = ".qlora-tools";
/// The name of the locked file, which says which tool owns the directory.
const LOCK: &str = "lock";
/// The names of everything else that a tool makes in a scratch directory.
const ENTRIES: [&str; 5] = ["new", "old", "file", "placed", "journal"];
/// Most bytes of a file's name.
const LONGEST_NAME: usize = 255;

/// The right to write a result, and a directory to work in. Dropping it removes the directory, unless
/// it is to be kept; the kernel frees the lock of a process that dies.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Whether the directory is kept when this value is dropped, for finished work that it holds.
    pub keeps: bool,
    _lock: File,
}

impl Scratch {
    /// Makes or takes over the scratch directory beside a result that gets its name when it is whole.
    pub(super) fn beside(result: &Destination, tool: &str) -> Result<Self> {
        Self::at(path_beside(result.path()), result.named(), tool)
    }

    /// Makes or takes over the scratch directory within a directory that grows.
    pub(super) fn within(directory: &Destination, tool: &str) -> Result<Self> {
        Self::at(directory.path().join(SCRATCH), directory.named(), tool)
    }

    /// Removes what a process that died has left beside a result that is whole.
    pub(super) fn discard(result: &Destination, tool: &str) {
        if is_beside(result.path()) {
            // What belongs to another process, or was not made by a tool, is left alone.
            drop(Self::beside(result, tool));
        }
    }

    /// Removes what a process that died has left in a directory that is whole.
    pub(super) fn discard_within(directory: &Destination, tool: &str) {
        if directory.path().join(SCRATCH).symlink_metadata().is_ok() {
            drop(Self::within(directory, tool));
        }
    }

    fn at(path: PathBuf, named: &Path, tool: &str) -> Result<Self> {
        let owner = format!("qlora-tools {tool}\n");
        loop {
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists => {
                    check_entries(&path)?;
                }
                Err(problem) => {
                    return Err(Error::from(problem)
                        .context(format!("cannot write in {}", parent(&path).display()))
                        .hint("choose a place that can be written, or free some of it"));
                }
            }
            let lock = path.join(LOCK);
            let opened = write::no_follow().read(true).write(true).create(true).truncate(false).open(&lock);
            let mut file = match opened {
                Ok(file) => file,
                // The process that held the directory has just removed it.
                Err(problem) if problem.kind() == io::ErrorKind::NotFound => continue,
                Err(_) if lock.is_symlink() => return Err(in_the_way(&path)),
                Err(problem) => {
                    return Err(Error::from(problem).context(format!("cannot open {}", lock.display())));
                }
            };
            if !file.metadata()?.is_file() {
                return Err(in_the_way(&path));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(error!("another process is writing {}", named.display())
                        .hint("wait for it, or choose another name with -o"));
                }
                Err(TryLockError::Error(problem)) => {
                    return Err(Error::from(problem)
                        .context(format!("cannot lock {}", lock.display()))
                        .hint("choose a place on a file system that locks files"));
                }
            }
            // It may have been removed between the two calls above.
            let same = |found: std::fs::Metadata, locked: std::fs::Metadata| {
                (found.dev(), found.ino()) == (locked.dev(), locked.ino())
            };
            if !lock.symlink_metadata().is_ok_and(|found| file.metadata().is_ok_and(|held| same(found, held)))
            {
                continue;
            }
            let mut text = String::new();
            Read::by_ref(&mut file).take(256).read_to_string(&mut text)?;
            if text.is_empty() {
                file.write_all(owner.as_bytes()).with_context(|| lock.display().to_string())?;
            } else if text != owner {
                return Err(match text.trim_end().strip_prefix("qlora-tools ") {
                    Some(other) => error!("{} holds unfinished work of {other}", path.display())
                        .hint("finish that first, or choose another name with -o"),
                    None => in_the_way(&path),
                });
            }
            return Ok(Self { path, keeps: false, _lock: file });
        }
    }

    /// The path of the result while it is written.
    pub(super) fn new_result(&self) -> PathBuf {
        self.path.join("new")
    }

    /// The path of the result that was replaced.
    pub(super) fn old_result(&self) -> PathBuf {
        self.path.join("old")
    }

    /// The path of a single file while it is written.
    pub(super) fn new_file(&self) -> PathBuf {
        self.path.join("file")
    }

    /// The path of a note that identifies the file which has got its name already.
    pub(super) fn placed(&self) -> PathBuf {
        self.path.join("placed")
    }

    /// The path of the journal of a result that is made in steps.
    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    fn remove(&self) -> Result<()> {
        let mut names = Vec::new();
        for entry in fs_err::read_dir(&self.path)? {
            names.push(entry?.file_name());
        }
        let own = names.iter().filter(|name| *name != LOCK && is_own(name));
        own.into_iter().try_for_each(|name| remove(&self.path.join(name)))?;
        remove(&self.path.join(LOCK))?;
        Ok(fs_err::remove_dir(&self.path)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keeps
            && let Err(problem) = self.remove()
        {
            crate::cli::verbose(problem);
        }
    }
}

/// Whether there is a scratch directory beside a result, of a tool that works or was killed.
pub(super) fn is_beside(result: &Path) -> bool {
    path_beside(result).symlink_metadata().is_ok()
}

fn path_beside(result: &Path) -> PathBuf {
    let name = result.file_name().unwrap_or_default().as_bytes();
    let mut own = [b".", name, SCRATCH.as_bytes()].concat();
    if own.len() > LONGEST_NAME {
        own = format!("{SCRATCH}-{}", &hex(Sha256::digest(name))[..32]).into_bytes();
    }
    result.with_file_name(OsString::from_vec(own))
}

/// Fails where `path` exists and is not a scratch directory that one of these tools made.
fn check_entries(path: &Path) -> Result<()> {
    let Ok(found) = path.symlink_metadata() else { return Ok(()) };
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(in_the_way(path));
    }
    let Ok(entries) = std::fs::read_dir(path) else { return Err(in_the_way(path)) };
    let names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    match names.iter().all(|name| is_own(name)) && (names.is_empty() || names.iter().any(|name| name == LOCK))
    {
        true => Ok(()),
        false => Err(in_the_way(path)),
    }
}

/// Whether tools make files or directories of that name in a scratch directory.
fn is_own(name: &OsStr) -> bool {
    let is_temporary = name.as_bytes().starts_with(write::TEMPORARY.as_bytes());
    name == LOCK || is_temporary || ENTRIES.iter().any(|known| name == *known)
}

fn in_the_way(path: &Path) -> Error {
    error!("{} is in the way: it is no directory that these tools work in", path.display())
        .hint("move it away, or choose another name with -o")
}

/// Whether the scratch directory within a directory that grows was made by one of these tools.
pub(super) fn is_ours_within(directory: &Path) -> bool {
    check_entries(&directory.join(SCRATCH)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn beside(path: &Path) -> Result<Scratch> {
        Scratch::beside(&Destination::file(path, &[]).unwrap(), "test")
    }

    #[test]
    fn one_at_a_time_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let scratch = beside(&path).unwrap();
        assert!(folder.path().join(".out.qlora-tools/lock").exists(), "beside, not within");
        assert!(beside(&path).unwrap_err().to_string().contains("another process"));
        drop(scratch);
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0);
        assert!(beside(&path).is_ok());
    }

    #[test]
    fn what_a_killed_process_left_is_taken_over_by_its_own_tool_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let left = folder.path().join(".out.qlora-tools");
        // A kill after mkdir, after the lock is made, after the owner's name is written.
        for owner in [None, Some(""), Some("qlora-tools test\n")] {
            fs_err::create_dir(&left).unwrap();
            if let Some(owner) = owner {
                fs_err::write(left.join("lock"), owner).unwrap();
            }
            drop(beside(&path).unwrap());
            assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0, "{owner:?}");
        }
        fs_err::create_dir(&left).unwrap();
        fs_err::write(left.join("lock"), "qlora-tools other\n").unwrap();
        let error = beside(&path).unwrap_err().to_string();
        assert!(error.contains("unfinished work of other"), "{error}");
    }

    #[test]
    fn what_no_tool_made_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let (path, left) = (folder.path().join("out"), folder.path().join(".out.qlora-tools"));
        let thesis = folder.path().join("thesis.tex");
        fs_err::write(&thesis, "years of work").unwrap();
        let refused = |what: &str| {
            assert!(beside(&path).is_err(), "{what}");
            assert_eq!(fs_err::read_to_string(&thesis).unwrap(), "years of work", "{what}");
            remove(&left).unwrap();
        };
        symlink(folder.path(), &left).unwrap();
        refused("a link to a directory");
        symlink("thesis.tex", &left).unwrap();
        refused("a link to a file");
        fs_err::create_dir(&left).unwrap();
        symlink("../thesis.tex", left.join("lock")).unwrap();
        refused("a link in place of the lock");
        fs_err::create_dir(&left).unwrap();
        fs_err::write(left.join("lock"), "poetry").unwrap();
        refused("a lock of something else");
        fs_err::create_dir(&left).unwrap();
        fs_err::write(left.join("notes.md"), "mine").unwrap();
        refused("files of another kind");
    }

    #[test]
    fn a_long_name_has_a_shorter_one_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n".repeat(250));
        assert!(beside(&path).is_ok());
    }
}
