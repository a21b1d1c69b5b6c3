//! The beginnings of chunks whose connections broke, for the connection that asks for them next.
//!
//! Where connections break again and again, no chunk might ever arrive whole; so each try begins where
//! the one before it ended.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most beginnings that are kept; each takes the memory of a chunk at most.
const MOST: usize = 32;

/// Beginnings of chunks, by file and chunk.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Mutex<HashMap<(usize, usize), Vec<u8>>>);

impl Leftovers {
    /// Keeps the bytes that a chunk begins with, unless more of it is kept already.
    pub(super) fn keep(&self, file: usize, chunk: usize, bytes: Vec<u8>) {
        let mut kept = self.lock();
        let is_longer = kept.get(&(file, chunk)).is_none_or(|known| known.len() < bytes.len());
        if is_longer && (kept.len() < MOST || kept.contains_key(&(file, chunk))) {
            kept.insert((file, chunk), bytes);
        }
    }

    /// Removes and returns the bytes that are kept of a chunk.
    pub(super) fn take(&self, file: usize, chunk: usize) -> Vec<u8> {
        self.lock().remove(&(file, chunk)).unwrap_or_default()
    }

    /// Removes the bytes of a chunk that has been written whole.
    pub(super) fn forget(&self, file: usize, chunk: usize) {
        self.lock().remove(&(file, chunk));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(usize, usize), Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_is_kept_once() {
        let leftovers = Leftovers::default();
        leftovers.keep(0, 3, vec![1, 2]);
        leftovers.keep(0, 3, vec![1]);
        assert_eq!(leftovers.take(0, 3), [1, 2]);
        assert!(leftovers.take(0, 3).is_empty());
        for chunk in 0..2 * MOST {
            leftovers.keep(1, chunk, vec![7]);
        }
        assert!(leftovers.take(1, 2 * MOST - 1).is_empty(), "memory is bounded");
        leftovers.forget(1, 0);
        assert!(leftovers.take(1, 0).is_empty());
    }
}
