//! Names below a directory that is held open.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use common::{Context, Error, Result, bail, error};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Folder, cannot, is_own_file, kind, unlink};

/// Files are opened without waiting, whatever they are, and looked at before anything is read.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// A name below a directory; nothing need be there.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(super) folder: Folder,
    /// Relative, without `.` or `..`.
    pub(super) name: PathBuf,
}

impl Entry {
    /// The whole path, for messages and for reading.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }

    /// An entry below this one.
    pub(crate) fn entry(&self, name: impl AsRef<Path>) -> Self {
        self.folder.entry(self.name.join(name))
    }

    /// What is there, not following a link; `None` for nothing.
    pub(crate) fn look(&self) -> Result<Option<Stat>> {
        match self.parent()? {
            Some((folder, name)) => folder.stat(name),
            None => Ok(None),
        }
    }

    /// Whether a regular file is there that has no other name, so that writing to it changes no other
    /// file of the user's.
    pub(crate) fn is_own_file(&self) -> Result<bool> {
        Ok(self.look()?.is_some_and(|found| is_own_file(&found)))
    }

    /// The directory that is there; `None` for nothing.
    pub(crate) fn folder(&self) -> Result<Option<Folder>> {
        match self.parent()? {
            Some((folder, name)) => folder.step(name),
            None => Ok(None),
        }
    }

    /// The directory that is there, made where nothing is.
    pub(crate) fn make_folder(&self) -> Result<Folder> {
        let (folder, name) = self.make_parent()?;
        folder.step_or_make(name)
    }

    /// Opens the regular file that is there for reading; `None` for nothing.
    pub(crate) fn open(&self) -> Result<Option<fs_err::File>> {
        let Some((folder, name)) = self.parent()? else { return Ok(None) };
        match rustix::fs::openat(&*folder.handle, name, FILE | OFlags::RDONLY, Mode::empty()) {
            Ok(file) => self.regular(file).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(failed) => Err(self.cannot_open(failed)),
        }
    }

    /// Opens the file for writing, made where nothing is. A file that has a second name is refused,
    /// because the file of that name would change, too.
    pub(crate) fn open_to_write(&self) -> Result<fs_err::File> {
        let (folder, name) = self.make_parent()?;
        let flags = FILE | OFlags::RDWR | OFlags::CREATE;
        let file = rustix::fs::openat(&*folder.handle, name, flags, Mode::from_raw_mode(0o666))
            .map_err(|failed| self.cannot_open(failed))?;
        let found = rustix::fs::fstat(&file).map_err(|failed| self.cannot_open(failed))?;
        if !is_own_file(&found) {
            return Err(self.is_something_else());
        }
        self.regular(file)
    }

    /// Makes a new file, in the place of any other that is there.
    pub(crate) fn create(&self) -> Result<fs_err::File> {
        let (folder, name) = self.make_parent()?;
        let flags = FILE | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        loop {
            match rustix::fs::openat(&*folder.handle, name, flags, Mode::from_raw_mode(0o666)) {
                Ok(file) => return self.regular(file),
                Err(Errno::EXIST) => unlink(&folder, name, AtFlags::empty())?,
                Err(failed) => return Err(self.cannot_open(failed)),
            }
        }
    }

    /// Opens the file for writing if it can be made, and `None` where anything is there already.
    pub(crate) fn create_new(&self) -> Result<Option<fs_err::File>> {
        let (folder, name) = self.make_parent()?;
        let flags = FILE | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        match rustix::fs::openat(&*folder.handle, name, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => self.regular(file).map(Some),
            Err(Errno::EXIST) => Ok(None),
            Err(failed) => Err(self.cannot_open(failed)),
        }
    }

    /// Writes a whole file, in the place of any other that is there, and waits until it is on the disk.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut file = self.create()?;
        file.write_all(bytes)?;
        Ok(file.sync_all()?)
    }

    /// Reads the file that is there, which may have at most `most` bytes; `None` for nothing.
    pub(crate) fn read(&self, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open()? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            bail!(TooLarge, "{} has more than {most} bytes", self.path().display());
        }
        Ok(Some(bytes))
    }

    /// Gives what is here the name of another entry, in the place of a file or a link that has it.
    pub(crate) fn rename_to(&self, to: &Self) -> Result<()> {
        let there = || format!("cannot give {} its name", to.path().display());
        let Some((from_folder, from)) = self.parent()? else {
            bail!(Missing, "{} is gone", self.path().display());
        };
        let (to_folder, name) = to.make_parent()?;
        rustix::fs::renameat(&*from_folder.handle, from, &*to_folder.handle, name)
            .map_err(std::io::Error::from)
            .with_context(there)
    }

    /// Makes a symbolic link to `target`, in the place of any other.
    pub(crate) fn link_to(&self, target: &Path) -> Result<()> {
        self.remove()?;
        let (folder, name) = self.make_parent()?;
        rustix::fs::symlinkat(target, &*folder.handle, name)
            .map_err(|failed| cannot(failed, "make the link", &self.path()))
    }

    /// Where the symbolic link leads that is there, as it is written.
    pub(crate) fn link_target(&self) -> Result<Option<PathBuf>> {
        let Some((folder, name)) = self.parent()? else { return Ok(None) };
        let target = rustix::fs::readlinkat(&*folder.handle, name, Vec::new()).ok();
        Ok(target.map(|target| OsString::from_vec(target.into_bytes()).into()))
    }

    /// Removes the file, the link or the directory with all that is in it; links are not followed.
    pub(crate) fn remove(&self) -> Result<()> {
        match self.parent()? {
            Some((folder, name)) => folder.remove(name),
            None => Ok(()),
        }
    }

    /// Removes the directory if nothing is in it.
    pub(crate) fn remove_empty_folder(&self) -> Result<()> {
        let Some((folder, name)) = self.parent()? else { return Ok(()) };
        match unlink(&folder, name, AtFlags::REMOVEDIR) {
            Err(error) if error.kind() == common::error::Kind::Exists => Ok(()),
            done => done,
        }
    }

    /// The open directory that holds the entry, and the entry's name in it.
    fn parent(&self) -> Result<Option<(Folder, &OsStr)>> {
        let mut folder = self.folder.clone();
        let (last, parents) = self.steps()?;
        for name in parents {
            match folder.step(name)? {
                Some(next) => folder = next,
                None => return Ok(None),
            }
        }
        Ok(Some((folder, last)))
    }

    /// [`Entry::parent`], which makes directories.
    fn make_parent(&self) -> Result<(Folder, &OsStr)> {
        let mut folder = self.folder.clone();
        let (last, parents) = self.steps()?;
        for name in parents {
            folder = folder.step_or_make(name)?;
        }
        Ok((folder, last))
    }

    /// The last name, and those of the directories before it.
    fn steps(&self) -> Result<(&OsStr, Vec<&OsStr>)> {
        let step = |component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        };
        let names: Option<Vec<&OsStr>> = self.name.components().map(step).collect();
        names
            .and_then(|mut names| Some((names.pop()?, names)))
            .ok_or_else(|| error!(Usage, "{} does not stay in its directory", self.path().display()))
    }

    fn regular(&self, file: OwnedFd) -> Result<fs_err::File> {
        let found = rustix::fs::fstat(&file).map_err(|failed| self.cannot_open(failed))?;
        match kind(&found) {
            FileType::RegularFile => Ok(fs_err::File::from_parts(file.into(), self.path())),
            _ => Err(self.is_something_else()),
        }
    }

    fn cannot_open(&self, failed: Errno) -> Error {
        match failed {
            Errno::LOOP | Errno::ISDIR | Errno::NXIO => self.is_something_else(),
            _ => cannot(failed, "open", &self.path()),
        }
    }

    fn is_something_else(&self) -> Error {
        let path = self.path();
        error!("{}: expected a file of our own, found a link or something else", path.display())
            .hint(format_args!("look at {}, then move it away", common::cli::quoted_path(&path)))
    }
}
