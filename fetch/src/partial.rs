//! A file that is still growing: its bytes, and beside them which chunks are there.
//!
//! The chunks arrive in any order, so the bytes alone do not tell how far a file is. The map is a
//! line that identifies the content, then one byte a chunk: 1 where the chunk has been written. It
//! is written after the chunk, so a process killed at any moment loses only chunks in flight. A map
//! for another content counts for nothing.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{Context, Result};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Bytes of a chunk, the unit that is either there or not; the last one of a file may be shorter.
pub const CHUNK: u64 = 256 << 10;

const WRITTEN: u8 = 1;
/// The kind of file system that is memory (Linux, `TMPFS_MAGIC`).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// How many chunks a file of `size` bytes has.
pub fn chunk_count(size: u64) -> usize {
    usize::try_from(size.div_ceil(CHUNK)).unwrap_or(usize::MAX)
}

/// Where a growing file and its map are.
#[derive(Debug, Clone)]
pub struct PartialFile {
    /// The bytes.
    pub data: PathBuf,
    /// Which chunks are there. Files of one chunk have none.
    pub map: PathBuf,
    /// Bytes when complete.
    pub size: u64,
    /// What the content is: a hash, or an etag and an address.
    pub identity: String,
}

/// A growing file, open for chunks.
pub struct Writer {
    data: fs_err::File,
    map: Option<fs_err::File>,
    map_start: u64,
}

impl PartialFile {
    /// Takes up what an earlier run left, or begins anew, and reserves the space.
    ///
    /// Returns which chunks are there.
    pub fn prepare(&self) -> Result<Vec<bool>> {
        fs_err::create_dir_all(parent(&self.data))?;
        let chunks = chunk_count(self.size);
        if !self.has_map() {
            return Ok(vec![false; chunks]);
        }
        if let Some(done) = self.read_map() {
            return Ok(done);
        }
        fs_err::create_dir_all(parent(&self.map))?;
        remove_if_there(&self.map)?;
        reserve(&fs_err::File::create(&self.data)?, self.size)?;
        self.clear()?;
        Ok(vec![false; chunks])
    }

    /// Bytes in the chunks that are there.
    pub fn bytes_in(&self, done: &[bool]) -> u64 {
        let chunks = (0_u64..).zip(done).filter(|(_, is_there)| **is_there);
        chunks.map(|(index, _)| CHUNK.min(self.size.saturating_sub(index * CHUNK))).sum()
    }

    /// Forgets all chunks.
    pub fn clear(&self) -> Result<()> {
        if self.has_map() {
            let mut map = self.map_header();
            map.resize(map.len() + chunk_count(self.size), 0);
            fs_err::write(&self.map, map)?;
        }
        Ok(())
    }

    /// Opens it for writing.
    pub fn open(&self) -> Result<Writer> {
        let open =
            |path: &Path| fs_err::OpenOptions::new().write(true).create(true).truncate(false).open(path);
        Ok(Writer {
            data: open(&self.data)?,
            map: if self.has_map() { Some(open(&self.map)?) } else { None },
            map_start: self.map_header().len() as u64,
        })
    }

    /// Gives the complete file its final name.
    pub fn place(&self, path: &Path) -> Result<()> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs_err::create_dir_all(parent)?;
        }
        if path.is_dir() {
            common::bail!(Exists, "{}: expected a file, found a directory", path.display());
        }
        fs_err::rename(&self.data, path)?;
        remove_if_there(&self.map)
    }

    /// Which chunks an earlier run left of this very content; `None` where that cannot be told.
    fn read_map(&self) -> Option<Vec<bool>> {
        let data = fs_err::symlink_metadata(&self.data).ok()?;
        let map = fs_err::read(&self.map).ok()?;
        let flags = map.strip_prefix(self.map_header().as_slice())?;
        (data.is_file() && data.len() == self.size && flags.len() == chunk_count(self.size))
            .then(|| flags.iter().map(|flag| *flag == WRITTEN).collect())
    }

    fn map_header(&self) -> Vec<u8> {
        format!("{} bytes in chunks of {CHUNK}: {}\n", self.size, self.identity.replace('\n', " "))
            .into_bytes()
    }

    fn has_map(&self) -> bool {
        self.size > CHUNK
    }
}

impl Writer {
    /// Writes chunk `index`, and then notes that it is there.
    pub fn write_chunk(&self, index: usize, chunk: &[u8]) -> Result<()> {
        let offset = index as u64 * CHUNK;
        self.data.file().write_all_at(chunk, offset).with_context(|| self.data.path().display())?;
        if let Some(map) = &self.map {
            map.file()
                .write_all_at(&[WRITTEN], self.map_start + index as u64)
                .with_context(|| map.path().display())?;
        }
        Ok(())
    }
}

/// Gives `file` its length and its disk space, so that a full disk shows before the first byte.
fn reserve(file: &fs_err::File, size: u64) -> Result<()> {
    if rustix::fs::fstatfs(file.file()).is_ok_and(|found| found.f_type == TMPFS) {
        // Memory is reserved by being cleared, which takes as long as filling it.
        return Ok(file.set_len(size)?);
    }
    match rustix::fs::fallocate(file.file(), FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(file.set_len(size)?),
        Err(error) => Err(std::io::Error::from(error))
            .with_context(|| format!("cannot reserve {size} bytes for {}", file.path().display())),
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(directory: &Path, identity: &str) -> PartialFile {
        PartialFile {
            data: directory.join("partial/sub/x"),
            map: directory.join("map/sub/x"),
            size: 2 * CHUNK + 5,
            identity: identity.into(),
        }
    }

    #[test]
    fn chunks_are_found_again_and_only_for_the_same_content() {
        let directory = tempfile::tempdir().unwrap();
        let file = partial(directory.path(), "sha256 aa");
        assert_eq!(file.prepare().unwrap(), [false; 3]);
        assert_eq!(fs_err::metadata(&file.data).unwrap().len(), file.size);
        file.open().unwrap().write_chunk(2, b"abcde").unwrap();
        assert_eq!(file.prepare().unwrap(), [false, false, true]);
        assert_eq!(file.bytes_in(&[true, false, true]), CHUNK + 5);
        assert!(fs_err::read(&file.data).unwrap().ends_with(b"\0abcde"));
        assert_eq!(partial(directory.path(), "sha256 bb").prepare().unwrap(), [false; 3]);
    }

    #[test]
    fn a_map_that_is_cut_or_a_file_of_another_length_counts_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = partial(directory.path(), "sha256 aa");
        for damage in [0, 1] {
            file.prepare().unwrap();
            file.open().unwrap().write_chunk(0, &[7; CHUNK as usize]).unwrap();
            let damaged = [&file.map, &file.data][damage];
            let length = fs_err::metadata(damaged).unwrap().len();
            fs_err::OpenOptions::new().write(true).open(damaged).unwrap().set_len(length - 1).unwrap();
            assert_eq!(file.prepare().unwrap(), [false; 3]);
        }
    }
}
