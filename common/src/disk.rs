//! The disk below the files that tools write: directories, space, and bringing bytes to it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use crate::Result;

/// The directory that a path lies in; the current one where the path is a mere name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Waits until a file, or the names in a directory, are on the disk.
pub fn sync(path: &Path) -> Result<()> {
    Ok(fs_err::File::open(path)?.sync_all()?)
}

/// Free bytes of the file system that holds an open file or directory, for users other than root.
pub fn free_space(on: impl AsFd) -> io::Result<u64> {
    let found = fstatvfs(on)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Gives `file` its length and takes the disk space for it, so that a full disk is found before the
/// first byte. Where the file system cannot take space ahead of time, only the length is set.
pub fn reserve(file: &File, length: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => file.set_len(length),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_a_name_is_the_current_directory() {
        assert_eq!(parent(Path::new("a/b")), Path::new("a"));
        assert_eq!(parent(Path::new("/b")), Path::new("/"));
        assert_eq!(parent(Path::new("b")), Path::new("."));
    }

    #[test]
    fn space_is_reserved_and_a_disk_has_some() {
        let file = tempfile::tempfile().unwrap();
        reserve(&file, 3 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3 << 20);
        assert!(free_space(&file).unwrap() > 0);
        reserve(&file, 1 << 62).unwrap_err();
    }
}
