//! Chunks that have arrived, and ranges that have ended or failed.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::chunks::Chunk;
use super::{Schedule, State};
use crate::transfer::request::RangeRequest;

/// Whether a chunk that has arrived is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Write the chunk, then call [`Schedule::written`] or [`Schedule::not_written`].
    Write,
    /// The chunk is written already.
    Skip,
    /// The rest of the range is not wanted any more.
    Stop,
}

impl Schedule {
    /// Asks for leave to write a chunk that has arrived whole.
    pub(crate) fn claim(&self, request: &RangeRequest, chunk: usize) -> Claim {
        let mut state = self.lock();
        let end = state.requests.get(&request.id).map_or(0, |known| known.chunks.end);
        if chunk >= end {
            return Claim::Stop;
        }
        request.progress.pending.store(0, Ordering::Relaxed);
        let file = &mut state.files[request.file];
        match file.chunks[chunk] {
            Chunk::Written | Chunk::BeingWritten => Claim::Skip,
            found => {
                file.chunks[chunk] = Chunk::BeingWritten;
                if found == Chunk::Missing {
                    let bytes = file.chunk_bytes(chunk);
                    state.missing -= bytes;
                }
                Claim::Write
            }
        }
    }

    /// Notes that a claimed chunk has been written. Returns whether the next one is still wanted.
    pub(crate) fn written(&self, request: &RangeRequest, chunk: usize) -> bool {
        let mut state = self.lock();
        let file = &mut state.files[request.file];
        file.chunks[chunk] = Chunk::Written;
        let gained = file.chunk_bytes(chunk);
        file.written += gained;
        file.advance_contiguous_end();
        state.written += gained;
        state.last_gain = Instant::now();
        let own = state.requests.get_mut(&request.id);
        let is_more_wanted = own.is_some_and(|own| {
            own.chunks.start = chunk + 1;
            !own.chunks.is_empty()
        });
        // A second request for the same chunk has become pointless.
        for other in state.requests.values() {
            let same =
                other.file == request.file && other.id != request.id && other.chunks == (chunk..chunk + 1);
            if same {
                other.progress.cancelled.notify_one();
            }
        }
        if state.files[request.file].is_written() {
            self.changed.notify_waiters();
        }
        is_more_wanted
    }

    /// Notes that a claimed chunk could not be written.
    pub(crate) fn not_written(&self, request: &RangeRequest, chunk: usize) {
        let mut state = self.lock();
        state.files[request.file].chunks[chunk] = Chunk::Fetched;
    }

    /// Gives a range back; chunks that were not written are missing again.
    pub(crate) fn end(&self, request: &RangeRequest) {
        let mut state = self.lock();
        let Some(own) = state.requests.remove(&request.id) else { return };
        if own.is_whole {
            state.files[own.file].whole_is_taken = false;
        }
        let elsewhere: Vec<Range<usize>> = state
            .requests
            .values()
            .filter(|other| other.file == own.file)
            .map(|other| other.chunks.clone())
            .collect();
        for chunk in own.chunks.clone() {
            if !elsewhere.iter().any(|range| range.contains(&chunk)) {
                state.give_back(own.file, chunk);
            }
        }
        self.changed.notify_waiters();
    }

    /// Notes that the server ignores ranges, so that the file comes in one stream from now on.
    ///
    /// Returns the request to continue with, unless another connection has begun such a stream.
    pub(crate) fn ranges_are_ignored(&self, request: &RangeRequest) -> Option<RangeRequest> {
        let mut state = self.lock();
        let file = &mut state.files[request.file];
        file.is_whole = true;
        if request.chunks.start != 0 || std::mem::replace(&mut file.whole_is_taken, true) {
            return None;
        }
        let chunks = 0..file.chunks.len();
        let own = state.requests.get_mut(&request.id)?;
        own.chunks = chunks;
        own.is_whole = true;
        Some(own.clone())
    }

    /// Makes chunks of a complete file missing again.
    pub(crate) fn fetch_again(&self, index: usize, chunks: &[usize]) {
        let mut state = self.lock();
        let file = &mut state.files[index];
        let mut bytes = 0;
        for &chunk in chunks {
            file.chunks[chunk] = Chunk::Missing;
            file.contiguous_end = file.contiguous_end.min(chunk);
            file.first_missing = file.first_missing.min(chunk);
            bytes += file.chunk_bytes(chunk);
        }
        file.written -= bytes;
        state.first_open = state.first_open.min(index);
        state.missing += bytes;
        state.written -= bytes;
        self.changed.notify_waiters();
    }
}

impl State {
    /// Makes a chunk missing again that no connection fetches any more.
    fn give_back(&mut self, index: usize, chunk: usize) {
        let file = &mut self.files[index];
        if file.chunks.get(chunk) == Some(&Chunk::Fetched) {
            file.chunks[chunk] = Chunk::Missing;
            file.first_missing = file.first_missing.min(chunk);
            self.first_open = self.first_open.min(index);
            self.missing += self.files[index].chunk_bytes(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::partial::CHUNK;
    use crate::transfer::schedule::tests::{next, schedule};

    #[test]
    fn a_chunk_is_written_by_one_connection_only() {
        let schedule = schedule(&[1]);
        let request = next(&schedule).unwrap();
        assert_eq!(schedule.claim(&request, 0), Claim::Write);
        assert_eq!(schedule.claim(&request, 0), Claim::Skip);
        assert_eq!(schedule.contiguous_end(0), 0);
        assert!(!schedule.written(&request, 0));
        assert_eq!(schedule.contiguous_end(0), CHUNK);
        schedule.end(&request);
        assert!(next(&schedule).is_none());
        assert_eq!((schedule.arrived(), schedule.active_files()), (CHUNK, vec![]));
    }

    #[test]
    fn doubtful_chunks_are_fetched_again() {
        let schedule = Schedule::new(vec![(2 * CHUNK + 5, vec![true; 3])], false);
        assert!(next(&schedule).is_none());
        schedule.fetch_again(0, &[1, 2]);
        assert_eq!((schedule.contiguous_end(0), schedule.arrived()), (CHUNK, CHUNK));
        assert_eq!(next(&schedule).unwrap().chunks, 1..3);
    }

    #[test]
    fn without_ranges_one_connection_takes_the_whole_file() {
        let schedule = schedule(&[40]);
        schedule.set_connections(4);
        let (first, second) = (next(&schedule).unwrap(), next(&schedule).unwrap());
        assert!(schedule.ranges_are_ignored(&second).is_none());
        let whole = schedule.ranges_are_ignored(&first).unwrap();
        assert!(whole.is_whole && whole.chunks == (0..40));
        schedule.end(&second);
        assert!(next(&schedule).is_none(), "no other connection fetches from it");
        schedule.end(&whole);
        assert!(next(&schedule).unwrap().is_whole);
    }
}
