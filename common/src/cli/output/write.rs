//! The system calls that every output is made with: files appear whole, names are given once, and nothing
//! is written or removed through a link.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::cli::Size;
use crate::disk::{parent, sync};
use crate::files::check_unchanged;
use crate::{Context, Error, Result, disk, error};

/// The beginning of the temporary names of files that have not got their own name yet.
pub(super) const TEMPORARY: &str = ".qlora-tools-";

/// Writes a file whole or not at all, replacing an earlier one. A link is replaced, not followed.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    check_unchanged()?;
    let mut file = temporary(path, "")?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| Error::from(failed.error).context(path.display()))?;
    sync(parent(path))
}

/// A new file beside `path`, to be renamed when it is whole; its temporary name ends in `suffix`.
pub fn temporary(path: &Path, suffix: &str) -> Result<tempfile::NamedTempFile> {
    let folder = parent(path);
    tempfile::Builder::new()
        .prefix(TEMPORARY)
        .rand_bytes(12)
        .suffix(suffix)
        .permissions(PermissionsExt::from_mode(0o666))
        .tempfile_in(folder)
        .with_context(|| format!("cannot write in {}", folder.display()))
        .hint("choose a place that can be written, or free some of it")
}

/// Makes a file that does not exist yet.
pub fn create_new(path: &Path) -> Result<File> {
    File::create_new(path).with_context(|| format!("cannot make {}", path.display()))
}

/// Options that open a file itself, never the target of a link, and never wait for it.
pub fn no_follow() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
    options
}

/// Renames `from` to `to`; fails where `to` exists.
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(error!("{} exists", to.display()).hint("choose another name with -o")),
        // Not every file system knows how.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if to.symlink_metadata().is_err() => {
            Ok(fs_err::rename(from, to)?)
        }
        Err(problem) => {
            Err(io::Error::from(problem)).with_context(|| format!("cannot make {}", to.display()))
        }
    }
}

/// Exchanges two names in one step; returns `false` where the file system cannot.
pub(super) fn exchange(one: &Path, other: &Path) -> Result<bool> {
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
        Err(problem) => {
            Err(io::Error::from(problem)).with_context(|| format!("cannot replace {}", other.display()))
        }
    }
}

/// Removes a file, a link or a whole directory, where it exists.
pub(super) fn remove(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => Ok(fs_err::remove_dir_all(path)?),
        Ok(_) => Ok(fs_err::remove_file(path)?),
        Err(_) => Ok(()),
    }
}

/// Waits until everything in a directory, and the directory itself, is on the disk.
pub(super) fn sync_tree(path: &Path) -> Result<()> {
    for entry in fs_err::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else if entry.file_type()?.is_file() {
            sync(&entry.path())?;
        }
    }
    sync(path)
}

/// Fails where the disk that holds `directory` has no room for another `bytes` bytes of `result`.
pub(super) fn check_space(directory: &Path, bytes: u64, result: &Path) -> Result<()> {
    let Ok(free) = File::open(directory).and_then(disk::free_space) else { return Ok(()) };
    if free < bytes {
        return Err(error!("{} takes {}, the disk has {} free", result.display(), Size(bytes), Size(free))
            .hint("free some disk space, or choose another place with -o"));
    }
    Ok(())
}
