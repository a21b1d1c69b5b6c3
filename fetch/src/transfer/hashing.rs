//! Hashing during the download: the bytes of each file as soon as all before them are written.
//!
//! The bytes are read from the page cache, through a memory map, so that ranges may arrive in any order
//! and a resumed file is hashed like any other. Then they are written to the disk, so that little is
//! left to do when the last byte arrives.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::checkpoint::Bytes;
use common::{Context, Result};

use crate::disk::digest::{Digest, Hasher};
use crate::disk::folder::Entry;
use crate::disk::partial::CHUNK;

/// Bytes hashed at a time, and kept mapped.
const BLOCK: u64 = 1 << 20;

/// Hashed bytes that wait in the page cache before they are synced to the disk.
const UNWRITTEN: u64 = 64 << 20;

/// The hashing of each file, as far as it is.
pub(super) struct Follower {
    files: Vec<Mutex<State>>,
}

struct State {
    entry: Entry,
    size: u64,
    expected: Option<Digest>,
    hasher: Option<Hasher>,
    hashed: u64,
    /// Bytes that are on the disk.
    synced: u64,
    /// Whether a thread is hashing this file, or has finished it.
    is_busy: bool,
}

/// How the hashing of a file ended, for now.
pub(super) enum Followed {
    /// All contiguous bytes are hashed; more have to arrive.
    Behind,
    /// The file is complete, right and on disk.
    Complete,
    /// The file is complete and its content is not what the server promised.
    Wrong {
        /// The hash of the file's content.
        found: Digest,
    },
}

impl Follower {
    /// For each file where its bytes are, how many there will be, and what they must hash to.
    pub(super) fn new(files: Vec<(Entry, u64, Option<Digest>)>) -> Self {
        let begin = |(entry, size, expected): (Entry, u64, Option<Digest>)| {
            let hasher = expected.as_ref().map(|digest| Hasher::like(digest, size));
            Mutex::new(State { entry, size, expected, hasher, hashed: 0, synced: 0, is_busy: false })
        };
        Self { files: files.into_iter().map(begin).collect() }
    }

    /// Claims the right to hash `file` up to `end`; `false` where a thread is hashing it already, or would
    /// have next to nothing to do.
    pub(super) fn begin(&self, file: usize, end: u64) -> bool {
        let mut state = self.lock(file);
        let is_worth_it = end >= state.hashed + BLOCK || end == state.size;
        is_worth_it && !std::mem::replace(&mut state.is_busy, true)
    }

    /// Hashes up to `end()`, which may grow meanwhile. Blocks; call [`Follower::begin`] first.
    pub(super) fn follow(&self, file: usize, end: impl Fn() -> u64) -> Result<Followed> {
        let (entry, size, mut hasher, mut hashed, mut synced) = {
            let mut state = self.lock(file);
            (state.entry.clone(), state.size, state.hasher.take(), state.hashed, state.synced)
        };
        let data = entry.open_to_write()?;
        // Some network file systems cannot be mapped.
        let map = Bytes::map_own(&entry.path()).ok();
        loop {
            let mut state = self.lock(file);
            let end = end();
            if hashed == end {
                if end < size {
                    (state.hasher, state.hashed, state.synced) = (hasher, hashed, synced);
                    state.is_busy = false;
                    return Ok(Followed::Behind);
                }
                break;
            }
            drop(state);
            if hashed - synced >= UNWRITTEN {
                data.sync_data()?;
                synced = hashed;
            }
            let Some(hasher) = &mut hasher else {
                hashed = end;
                continue;
            };
            while hashed < end {
                let next = end.min(hashed + BLOCK);
                let block = block(&data, map.as_ref(), hashed..next)?;
                hasher.update(&block);
                block.release();
                hashed = next;
            }
        }
        let found = hasher.map(Hasher::finish);
        if let Some(found) = found
            && self.lock(file).expected.as_ref() != Some(&found)
        {
            return Ok(Followed::Wrong { found });
        }
        data.sync_data()?;
        Ok(Followed::Complete)
    }

    /// Begins the hashing of a file again whose content was wrong.
    pub(super) fn start_over(&self, file: usize) {
        let mut state = self.lock(file);
        state.hasher = state.expected.as_ref().map(|digest| Hasher::like(digest, state.size));
        (state.hashed, state.synced, state.is_busy) = (0, 0, false);
    }

    /// Calls `each` with some chunks of a file that is there, in their order.
    pub(super) fn read_chunks(
        &self,
        file: usize,
        chunks: &[usize],
        mut each: impl FnMut(usize, &[u8]),
    ) -> Result<()> {
        let (entry, size) = {
            let state = self.lock(file);
            (state.entry.clone(), state.size)
        };
        let data = entry.open_to_write()?;
        for &chunk in chunks {
            let start = chunk as u64 * CHUNK;
            each(chunk, &block(&data, None, start..size.min(start + CHUNK))?);
        }
        Ok(())
    }

    fn lock(&self, file: usize) -> MutexGuard<'_, State> {
        self.files[file].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes in `range` of a file: a part of its memory map where it has one, else a copy.
fn block(data: &fs_err::File, map: Option<&Bytes>, range: Range<u64>) -> Result<Bytes> {
    let part = |map: &Bytes| map.slice(range.start.try_into().ok()?..range.end.try_into().ok()?);
    if let Some(part) = map.and_then(part) {
        return Ok(part);
    }
    let mut bytes = vec![0; (range.end - range.start) as usize];
    data.file()
        .read_exact_at(&mut bytes, range.start)
        .with_context(|| format!("cannot read back {}", data.path().display()))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::folder::Folder;

    fn follower(content: &[u8], digest: Option<Digest>) -> (tempfile::NamedTempFile, Follower) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), content).unwrap();
        let folder = Folder::open(file.path().parent().unwrap()).unwrap().unwrap();
        let entry = folder.entry(file.path().file_name().unwrap());
        let follower = Follower::new(vec![(entry, content.len() as u64, digest)]);
        (file, follower)
    }

    fn sha256_of_hello() -> Option<Digest> {
        Digest::sha256("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    }

    #[test]
    fn a_file_that_cannot_be_mapped_is_read() {
        let (file, _) = follower(b"hello", None);
        let data = fs_err::File::open(file.path()).unwrap();
        let map = Bytes::map(file.path()).unwrap();
        for map in [Some(&map), None] {
            assert_eq!(*block(&data, map, 1..4).unwrap(), *b"ell");
            let error = block(&data, map, 4..6).unwrap_err();
            assert!(error.to_string().contains("cannot read back"), "{error}");
        }
    }

    #[test]
    fn follows_in_steps() {
        let content = vec![b'a'; 3 * BLOCK as usize];
        let mut hasher = Hasher::like(&sha256_of_hello().unwrap(), 0);
        hasher.update(&content);
        let (_file, follower) = follower(&content, Some(hasher.finish()));
        for end in [BLOCK, 2 * BLOCK + 1] {
            assert!(!follower.begin(0, end - BLOCK + 1), "little to do");
            assert!(follower.begin(0, end));
            assert!(!follower.begin(0, end), "one thread a file");
            assert!(matches!(follower.follow(0, || end).unwrap(), Followed::Behind));
        }
        let end = content.len() as u64;
        assert!(follower.begin(0, end), "little to do, but it is the end");
        assert!(matches!(follower.follow(0, || end).unwrap(), Followed::Complete));
        assert!(!follower.begin(0, end), "a complete file is not followed again");
    }

    #[test]
    fn a_wrong_content_is_hashed_anew() {
        let (file, follower) = follower(b"hellO", sha256_of_hello());
        assert!(follower.begin(0, 5));
        assert!(matches!(follower.follow(0, || 5).unwrap(), Followed::Wrong { .. }));
        follower.start_over(0);
        fs_err::write(file.path(), "hello").unwrap();
        assert!(follower.begin(0, 5));
        assert!(matches!(follower.follow(0, || 5).unwrap(), Followed::Complete));
        let mut chunks = Vec::new();
        follower.read_chunks(0, &[0], |chunk, bytes| chunks.push((chunk, bytes.to_vec()))).unwrap();
        assert_eq!(chunks, [(0, b"hello".to_vec())]);
    }
}
