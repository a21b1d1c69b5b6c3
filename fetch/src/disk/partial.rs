//! A file that is still growing: its bytes, and beside them a map of the chunks that are there.
//!
//! The chunks arrive in any order, so the bytes alone do not tell how far a file is. The map is a
//! line that identifies the content, then one byte a chunk: 1 where the chunk has been written. It
//! is written after the chunk, so a process killed at any moment loses only unfinished chunks. A map
//! for another content is ignored.

use std::os::unix::fs::FileExt;

use common::{Context, Result};

use crate::disk::folder::Entry;

/// Bytes of a chunk, the unit that is either there or not; the last one of a file may be shorter.
pub(crate) const CHUNK: u64 = 256 << 10;

const WRITTEN: u8 = 1;
/// The kind of file system that is memory (Linux, `TMPFS_MAGIC`).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// How many chunks a file of `size` bytes has.
pub(crate) fn chunk_count(size: u64) -> usize {
    usize::try_from(size.div_ceil(CHUNK)).unwrap_or(usize::MAX)
}

/// Where a growing file and its map are.
#[derive(Debug, Clone)]
pub(crate) struct PartialFile {
    /// The file with the bytes.
    pub data: Entry,
    /// The map of the chunks that are there. Files of one chunk have none.
    pub map: Entry,
    /// Length in bytes when the file is complete.
    pub size: u64,
    /// What identifies the content: a hash, or an etag and an address.
    pub identity: String,
}

/// A growing file, open for chunks.
pub(crate) struct Writer {
    data: fs_err::File,
    map: Option<fs_err::File>,
    map_start: u64,
}

impl PartialFile {
    /// Continues the file of an earlier run or begins a new one, and reserves the space.
    ///
    /// Returns which chunks are there.
    pub(crate) fn prepare(&self) -> Result<Vec<bool>> {
        let chunks = chunk_count(self.size);
        if self.has_map()
            && let Some(done) = self.read_map()?
        {
            return Ok(done);
        }
        self.map.remove()?;
        self.data.remove()?;
        reserve(&self.data.create()?, self.size)?;
        self.clear()?;
        Ok(vec![false; chunks])
    }

    /// The number of bytes in the chunks that are there.
    pub(crate) fn bytes_in(&self, done: &[bool]) -> u64 {
        let chunks = (0_u64..).zip(done).filter(|(_, is_there)| **is_there);
        chunks.map(|(index, _)| CHUNK.min(self.size.saturating_sub(index * CHUNK))).sum()
    }

    /// Forgets all chunks.
    pub(crate) fn clear(&self) -> Result<()> {
        if self.has_map() {
            let mut map = self.map_header();
            map.resize(map.len() + chunk_count(self.size), 0);
            let file = self.map.open_to_write()?;
            file.set_len(0)?;
            file.file().write_all_at(&map, 0).with_context(|| file.path().display())?;
        }
        Ok(())
    }

    /// Forgets some chunks.
    pub(crate) fn forget(&self, chunks: &[usize]) -> Result<()> {
        let writer = self.open()?;
        chunks.iter().try_for_each(|&chunk| writer.mark(chunk, 0))
    }

    /// Opens the file for writing chunks.
    pub(crate) fn open(&self) -> Result<Writer> {
        Ok(Writer {
            data: self.data.open_to_write()?,
            map: if self.has_map() { Some(self.map.open_to_write()?) } else { None },
            map_start: self.map_header().len() as u64,
        })
    }

    /// Gives the complete file its final name.
    pub(crate) fn place(&self, to: &Entry) -> Result<()> {
        self.data.rename_to(to)?;
        self.map.remove()
    }

    /// The chunks that an earlier run left of the same content; `None` where its files do not tell.
    fn read_map(&self) -> Result<Option<Vec<bool>>> {
        if !self.data.is_own_file()? || !self.map.is_own_file()? {
            return Ok(None);
        }
        let header = self.map_header();
        let chunks = chunk_count(self.size);
        let (Some(data), Some(map)) =
            (self.data.open()?, self.map.read((header.len() + chunks) as u64).ok().flatten())
        else {
            return Ok(None);
        };
        let flags = map.strip_prefix(header.as_slice()).filter(|flags| flags.len() == chunks);
        if data.metadata()?.len() != self.size {
            return Ok(None);
        }
        Ok(flags.map(|flags| flags.iter().map(|flag| *flag == WRITTEN).collect()))
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
    pub(crate) fn write_chunk(&self, index: usize, chunk: &[u8]) -> Result<()> {
        let offset = index as u64 * CHUNK;
        self.data.file().write_all_at(chunk, offset).with_context(|| self.data.path().display())?;
        self.mark(index, WRITTEN)
    }

    /// Notes whether a chunk is there.
    fn mark(&self, index: usize, flag: u8) -> Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        map.file().write_all_at(&[flag], self.map_start + index as u64).with_context(|| map.path().display())
    }
}

/// Gives `file` its length and its disk space, so that a full disk shows before the first byte.
fn reserve(file: &fs_err::File, size: u64) -> Result<()> {
    if rustix::fs::fstatfs(file.file()).is_ok_and(|found| found.f_type == TMPFS) {
        // Memory is reserved by being cleared, which takes as long as filling it.
        return Ok(file.set_len(size)?);
    }
    common::disk::reserve(file.file(), size)
        .with_context(|| format!("cannot reserve {size} bytes for {}", file.path().display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::folder::Folder;

    fn partial(directory: &std::path::Path, identity: &str) -> PartialFile {
        let folder = Folder::make(directory).unwrap();
        PartialFile {
            data: folder.entry("partial/sub/x"),
            map: folder.entry("map/sub/x"),
            size: 2 * CHUNK + 5,
            identity: identity.into(),
        }
    }

    #[test]
    fn chunks_are_found_again_and_only_for_the_same_content() {
        let directory = tempfile::tempdir().unwrap();
        let file = partial(directory.path(), "sha256 aa");
        assert_eq!(file.prepare().unwrap(), [false; 3]);
        assert_eq!(fs_err::metadata(file.data.path()).unwrap().len(), file.size);
        file.open().unwrap().write_chunk(2, b"abcde").unwrap();
        assert_eq!(file.prepare().unwrap(), [false, false, true]);
        assert_eq!(file.bytes_in(&[true, false, true]), CHUNK + 5);
        assert!(fs_err::read(file.data.path()).unwrap().ends_with(b"\0abcde"));
        assert_eq!(partial(directory.path(), "sha256 bb").prepare().unwrap(), [false; 3]);
    }

    #[test]
    fn a_map_that_is_cut_or_a_file_of_another_length_counts_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = partial(directory.path(), "sha256 aa");
        for damage in [0, 1] {
            file.prepare().unwrap();
            file.open().unwrap().write_chunk(0, &[7; CHUNK as usize]).unwrap();
            let damaged = &[file.map.path(), file.data.path()][damage];
            let length = fs_err::metadata(damaged).unwrap().len();
            fs_err::OpenOptions::new().write(true).open(damaged).unwrap().set_len(length - 1).unwrap();
            assert_eq!(file.prepare().unwrap(), [false; 3]);
        }
    }
}
