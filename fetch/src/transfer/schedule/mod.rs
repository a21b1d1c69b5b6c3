//! Which connection fetches which chunks: one schedule over all ranges of all files.
//!
//! | file | what it is |
//! |---|---|
//! | `chunks` | the chunks of one file: missing, being fetched, written |
//! | `ranges` | the next range of chunks that no connection is fetching |
//! | `stealing` | help for slow connections: the end of another connection's range |
//! | `ends` | chunks that have arrived, and ranges that have ended or failed |
//!
//! Files are taken in order, small ones first, so that early files are complete while later ones
//! are still being fetched. A range is long compared with the wait for it, and takes two seconds at most.
//! When no chunk is missing, an idle connection steals its share of the slowest range from the
//! connection that fetches it, and asks once more for a last chunk that is late. A connection that is
//! stuck is helped in the same way before any new range begins.
//!
//! A chunk is written by one connection only: the first that has it whole in memory and claims it.

mod chunks;
mod ends;
mod ranges;
mod stealing;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::pace::Pace;
use super::request::RangeRequest;
use crate::disk::partial::CHUNK;
use chunks::FileChunks;
pub(super) use ends::Claim;

/// All that is left to fetch.
pub(super) struct Schedule {
    state: Mutex<State>,
    /// Notified when a connection that waits may find something to fetch.
    changed: Notify,
}

struct State {
    files: Vec<FileChunks>,
    /// The ranges that connections are fetching, by their `id`.
    requests: HashMap<u64, RangeRequest>,
    next_id: u64,
    /// The first file that may have missing chunks.
    first_open: usize,
    /// Bytes of chunks that no connection is fetching.
    missing: u64,
    /// Bytes of chunks that are written.
    written: u64,
    /// Connections that share the work.
    connections: usize,
    /// Whether `--max-rate` makes connections wait, so that their silence does not mean that they are stuck.
    is_throttled: bool,
    /// When a chunk was last written.
    last_gain: Instant,
}

/// What an idle connection does next.
pub(super) enum Next {
    /// Fetch this range.
    Fetch(RangeRequest),
    /// Wait for a change of the schedule, this long at most, and ask again.
    Wait(Duration),
}

impl Schedule {
    /// A schedule of files in the order in which they are wanted: for each its size, and which of its
    /// chunks are there. `is_throttled` says that `--max-rate` limits the connections.
    pub(super) fn new(files: Vec<(u64, Vec<bool>)>, is_throttled: bool) -> Self {
        let files: Vec<FileChunks> =
            files.into_iter().map(|(size, done)| FileChunks::new(size, &done)).collect();
        let missing = files.iter().map(FileChunks::missing_bytes).sum();
        let total: u64 = files.iter().map(|file| file.size).sum();
        Self {
            state: Mutex::new(State {
                files,
                requests: HashMap::new(),
                next_id: 0,
                first_open: 0,
                missing,
                written: total - missing,
                connections: 1,
                is_throttled,
                last_gain: Instant::now(),
            }),
            changed: Notify::new(),
        }
    }

    /// Sets how many connections share the work.
    pub(super) fn set_connections(&self, connections: usize) {
        self.lock().connections = connections.max(1);
    }

    /// What a connection of a certain pace does next.
    pub(super) fn next(&self, pace: Pace) -> Next {
        let mut state = self.lock();
        let stuck = if state.is_throttled { None } else { state.steal(pace, RangeRequest::is_stuck) };
        let next = stuck
            .or_else(|| state.next_missing(pace))
            .or_else(|| state.steal(pace, RangeRequest::is_worth_helping));
        match next {
            Some(request) => Next::Fetch(request),
            None => Next::Wait(Duration::from_millis(100)),
        }
    }

    /// Waits until the schedule changes, `limit` at most.
    pub(super) async fn wait(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.changed.notified()).await;
    }

    /// The number of bytes from the beginning of the file that are written without a gap.
    pub(super) fn contiguous_end(&self, file: usize) -> u64 {
        let state = self.lock();
        let file = &state.files[file];
        (file.contiguous_end as u64 * CHUNK).min(file.size)
    }

    /// The number of bytes that have arrived, those of unfinished chunks included.
    pub(super) fn arrived(&self) -> u64 {
        let state = self.lock();
        let pending: u64 =
            state.requests.values().map(|request| request.progress.pending.load(Ordering::Relaxed)).sum();
        state.written + pending
    }

    /// The files that connections are fetching, in order, each with the bytes that have arrived.
    pub(super) fn active_files(&self) -> Vec<(usize, u64)> {
        let state = self.lock();
        let mut files = BTreeMap::new();
        for request in state.requests.values() {
            let arrived = files.entry(request.file).or_insert(state.files[request.file].written);
            *arrived += request.progress.pending.load(Ordering::Relaxed);
        }
        files.into_iter().collect()
    }

    /// When a chunk was last written.
    pub(super) fn last_gain(&self) -> Instant {
        self.lock().last_gain
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schedule of files with these numbers of chunks, all of them missing.
    pub(super) fn schedule(chunks: &[usize]) -> Schedule {
        let files = chunks.iter().map(|count| (*count as u64 * CHUNK, vec![false; *count])).collect();
        Schedule::new(files, false)
    }

    /// The range that a connection of unknown pace would fetch next.
    pub(super) fn next(schedule: &Schedule) -> Option<RangeRequest> {
        match schedule.next(Pace::expected(Duration::ZERO)) {
            Next::Fetch(request) => Some(request),
            Next::Wait(_) => None,
        }
    }

    #[test]
    fn what_arrives_is_told_of_each_file() {
        let schedule =
            Schedule::new(vec![(2 * CHUNK + 5, vec![true, false, true]), (CHUNK, vec![false])], false);
        schedule.set_connections(2);
        let (first, second) = (next(&schedule).unwrap(), next(&schedule).unwrap());
        first.receive(7);
        second.receive(CHUNK);
        assert_eq!(schedule.active_files(), [(0, CHUNK + 12), (1, CHUNK)]);
        assert_eq!(schedule.arrived(), 2 * CHUNK + 12);
        assert_eq!(schedule.claim(&second, 0), Claim::Write);
        schedule.written(&second, 0);
        schedule.end(&second);
        assert_eq!(schedule.active_files(), [(0, CHUNK + 12)]);
        assert_eq!(schedule.arrived(), 2 * CHUNK + 12);
    }
}
