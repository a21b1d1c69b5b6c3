//! Directories that are held open, and entries in them that are reached without following a link.
//!
//! What lies in an output or in the cache may have been put there by another user: a link in the
//! place of a directory, a lock or an unfinished file would lead a write to any file of the user's.
//! So everything is written through here: a path is walked one name at a time, from a directory that
//! is open, and a link on the way is an error.

mod entry;

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Context, Error, Result, error};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

pub(crate) use entry::Entry;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// A directory that is held open.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    handle: Arc<OwnedFd>,
    /// The path of the directory, for messages.
    path: PathBuf,
}

impl Folder {
    /// The directory at a path that the user gave, which may lead through the user's own links; `None`
    /// where nothing is there.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        match rustix::fs::open(or_here(path), DIRECTORY, Mode::empty()) {
            Ok(handle) => Ok(Some(Self { handle: Arc::new(handle), path: path.into() })),
            Err(Errno::NOENT) if path.symlink_metadata().is_ok() => {
                Err(error!("{} is a link to a place that is not there", path.display())
                    .hint("remove the link, or choose another directory with -o"))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR) => Err(error!("{} is not a directory", path.display())
                .hint("name a directory that is one, or a new one")),
            Err(failed) => Err(cannot(failed, "open", path)),
        }
    }

    /// [`Folder::open`], which makes the directory where nothing is.
    pub(crate) fn make(path: &Path) -> Result<Self> {
        if let Some(folder) = Self::open(path)? {
            return Ok(folder);
        }
        fs_err::create_dir_all(path)?;
        Self::open(path)?.ok_or_else(|| error!(Changed, "{} is gone", path.display()))
    }

    /// The path of the directory, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The entry `name`, which may lie in directories below.
    pub(crate) fn entry(&self, name: impl AsRef<Path>) -> Entry {
        Entry { folder: self.clone(), name: name.as_ref().into() }
    }

    /// The names in the directory.
    pub(crate) fn names(&self) -> Result<Vec<OsString>> {
        let failed = |failed| cannot(failed, "read", &self.path);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&*self.handle).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Waits until the names in the directory are on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        match rustix::fs::fsync(&*self.handle) {
            // Some file systems cannot.
            Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
            Err(failed) => Err(cannot(failed, "sync", &self.path)),
        }
    }

    /// Free bytes of the file system that holds the directory.
    pub(crate) fn free(&self) -> Result<u64> {
        common::disk::free_space(&*self.handle)
            .with_context(|| format!("cannot ask for the free space of {}", self.path.display()))
    }

    /// The directory `name` in this one; `None` where nothing is there, an error where it is a link.
    fn step(&self, name: &OsStr) -> Result<Option<Self>> {
        let path = self.path.join(name);
        match rustix::fs::openat(&*self.handle, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(handle) => Ok(Some(Self { handle: Arc::new(handle), path })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(error!(
                "{}: expected a directory, found something else; nothing is written through a link",
                path.display()
            )
            .hint(format_args!("look at {}, then move it away", common::cli::quoted_path(&path)))),
            Err(failed) => Err(cannot(failed, "open", &path)),
        }
    }

    /// [`Folder::step`], which makes the directory.
    fn step_or_make(&self, name: &OsStr) -> Result<Self> {
        loop {
            if let Some(folder) = self.step(name)? {
                return Ok(folder);
            }
            match rustix::fs::mkdirat(&*self.handle, name, Mode::from_raw_mode(0o777)) {
                // Where another process has made it, or removed it again, the next turn tells.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(failed) => return Err(cannot(failed, "make", &self.path.join(name))),
            }
        }
    }

    fn stat(&self, name: &OsStr) -> Result<Option<Stat>> {
        match rustix::fs::statat(&*self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(failed) => Err(cannot(failed, "look at", &self.path.join(name))),
        }
    }

    fn remove(&self, name: &OsStr) -> Result<()> {
        match self.stat(name)? {
            None => Ok(()),
            Some(found) if kind(&found) == FileType::Directory => {
                let Some(folder) = self.step(name)? else { return Ok(()) };
                for below in folder.names()? {
                    folder.remove(&below)?;
                }
                unlink(self, name, AtFlags::REMOVEDIR)
            }
            Some(_) => unlink(self, name, AtFlags::empty()),
        }
    }
}

/// Whether it is a regular file with one name.
fn is_own_file(found: &Stat) -> bool {
    kind(found) == FileType::RegularFile && found.st_nlink == 1
}

/// What kind of file was found.
fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

fn unlink(folder: &Folder, name: &OsStr, flags: AtFlags) -> Result<()> {
    match rustix::fs::unlinkat(&*folder.handle, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(failed) => Err(cannot(failed, "remove", &folder.path.join(name))),
    }
}

fn cannot(failed: Errno, what: &str, path: &Path) -> Error {
    Error::from(std::io::Error::from(failed)).context(format_args!("cannot {what} {}", path.display()))
}

/// The empty path is the current directory.
fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let outside = parent.path().join("outside");
        fs_err::create_dir(&outside).unwrap();
        fs_err::write(outside.join("thesis"), "years").unwrap();
        let folder = Folder::make(&parent.path().join("d")).unwrap();
        (parent, folder, outside)
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (_parent, folder, outside) = folder();
        symlink(&outside, folder.path().join("sub")).unwrap();
        symlink(outside.join("thesis"), folder.path().join("file")).unwrap();
        symlink(outside.join("new"), folder.path().join("dangling")).unwrap();
        fs_err::hard_link(outside.join("thesis"), folder.path().join("second-name")).unwrap();
        for name in ["sub/x", "sub/thesis", "file", "dangling", "second-name"] {
            assert!(folder.entry(name).open_to_write().is_err(), "{name}");
        }
        assert!(folder.entry("sub/x").create().is_err());
        assert!(folder.entry("sub/deeper").make_folder().is_err());
        for name in ["file", "dangling", "second-name"] {
            folder.entry(name).write(b"ours").unwrap();
            assert_eq!(fs_err::read(folder.path().join(name)).unwrap(), b"ours");
        }
        folder.entry("other/deep/file").write(b"ours").unwrap();
        folder.entry("sub").remove().unwrap();
        assert_eq!(fs_err::read(outside.join("thesis")).unwrap(), b"years");
        assert_eq!(fs_err::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let (_parent, folder, _) = folder();
        rustix::fs::mkfifoat(&*folder.handle, "fifo", Mode::RUSR | Mode::WUSR).unwrap();
        assert!(folder.entry("fifo").read(10).is_err());
        assert!(folder.entry("fifo").open_to_write().is_err());
        assert!(folder.entry("none").read(10).unwrap().is_none());
        folder.entry("long").write(b"12345678901").unwrap();
        assert!(folder.entry("long").read(10).is_err());
    }

    #[test]
    fn a_link_to_nowhere_is_no_directory_to_make() {
        let (parent, ..) = folder();
        let link = parent.path().join("link");
        symlink(parent.path().join("nowhere"), &link).unwrap();
        assert!(Folder::make(&link).unwrap_err().to_string().contains("is a link"));
    }
}
