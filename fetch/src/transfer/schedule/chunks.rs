//! The chunks of one file: which are missing, being fetched, or written.

use crate::disk::partial::CHUNK;

/// How far a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// No connection is fetching it.
    Missing,
    /// At least one connection is fetching it.
    Fetched,
    /// A connection has it whole, and is writing it.
    BeingWritten,
    /// The chunk is in the file.
    Written,
}

/// A file of the schedule.
pub(super) struct FileChunks {
    /// Length of the file in bytes.
    pub size: u64,
    /// The state of each chunk.
    pub chunks: Vec<Chunk>,
    /// Bytes of the chunks that are written.
    pub written: u64,
    /// No chunk before this one is missing.
    pub first_missing: usize,
    /// All chunks before this one are written.
    pub contiguous_end: usize,
    /// Whether the server sends the whole file or nothing.
    pub is_whole: bool,
    /// Whether a connection is fetching the whole file.
    pub whole_is_taken: bool,
}

impl FileChunks {
    /// A file of `size` bytes, of which the chunks in `done` are there.
    pub(super) fn new(size: u64, done: &[bool]) -> Self {
        let chunks = done.iter().map(|done| if *done { Chunk::Written } else { Chunk::Missing }).collect();
        let mut file = Self {
            size,
            chunks,
            written: 0,
            first_missing: 0,
            contiguous_end: 0,
            is_whole: false,
            whole_is_taken: false,
        };
        file.written = size - file.missing_bytes();
        file.advance_contiguous_end();
        file
    }

    /// The first missing chunk.
    pub(super) fn missing_from(&self) -> Option<usize> {
        let found = self.chunks[self.first_missing..].iter().position(|chunk| *chunk == Chunk::Missing)?;
        Some(self.first_missing + found)
    }

    /// Moves `contiguous_end` past all chunks that are written without a gap.
    pub(super) fn advance_contiguous_end(&mut self) {
        while self.chunks.get(self.contiguous_end) == Some(&Chunk::Written) {
            self.contiguous_end += 1;
        }
    }

    /// Whether all chunks are written.
    pub(super) fn is_written(&self) -> bool {
        self.contiguous_end == self.chunks.len()
    }

    /// The length of a chunk in bytes; that of the last one is what the file has left.
    pub(super) fn chunk_bytes(&self, chunk: usize) -> u64 {
        CHUNK.min(self.size - chunk as u64 * CHUNK)
    }

    /// The number of bytes in missing chunks.
    pub(super) fn missing_bytes(&self) -> u64 {
        let missing = |(index, chunk): (usize, &Chunk)| match chunk {
            Chunk::Missing => self.chunk_bytes(index),
            _ => 0,
        };
        self.chunks.iter().enumerate().map(missing).sum()
    }
}
