//! Who fetches what: one scheduler over all ranges of all files.
//!
//! Files are taken in order, small ones first, so that early files are complete while later ones
//! are still on their way. A range is long beside the wait for it, and takes two seconds at most.
//! When nothing is left to hand out, an idle connection takes its share of the slowest range from the
//! connection that has it, and asks once more for a last chunk that is late. A connection that is stuck
//! is helped in the same way before anything new is handed out.
//!
//! A chunk is written by one connection only: whoever claims it first, whole and in memory.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::disk::partial::CHUNK;
use crate::transfer::request::{Flight, Pace};

/// All that is left to fetch.
pub struct Schedule {
    state: Mutex<State>,
    /// Something may have become available.
    changed: Notify,
}

struct State {
    files: Vec<FileState>,
    flights: HashMap<u64, Flight>,
    next_id: u64,
    /// No chunk of the files before this one is missing.
    first_open: usize,
    /// Bytes nobody is fetching.
    missing: u64,
    /// Chunks that are there, whole, in bytes.
    written: u64,
    connections: usize,
    /// All connections wait for leave to go on, so that their silence says nothing.
    is_throttled: bool,
    last_gain: Instant,
}

struct FileState {
    size: u64,
    chunks: Vec<Chunk>,
    /// Chunks that are there, whole, in bytes.
    written: u64,
    /// No chunk before this one is missing.
    first_missing: usize,
    /// All chunks before this one are written.
    frontier: usize,
    /// The server sends the whole file or nothing.
    is_whole: bool,
    /// Somebody is fetching the whole file.
    whole_is_taken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Missing,
    Fetched,
    BeingWritten,
    Written,
}

/// What an idle connection does next.
pub enum Next {
    /// Fetch this.
    Flight(Flight),
    /// Nothing now; ask again after a change, or after this long.
    Wait(Duration),
}

/// Whether a chunk that has arrived is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Write it, then say so.
    Write,
    /// It is there already.
    Skip,
    /// The rest of the range is not wanted any more.
    Stop,
}

impl Schedule {
    /// `files` in the order in which they are wanted: size, and which chunks are there. `is_throttled`
    /// where we ourselves keep the rate low.
    pub fn new(files: Vec<(u64, Vec<bool>)>, is_throttled: bool) -> Self {
        let files: Vec<FileState> =
            files.into_iter().map(|(size, done)| FileState::new(size, &done)).collect();
        let missing = files.iter().map(FileState::missing).sum();
        let total: u64 = files.iter().map(|file| file.size).sum();
        Self {
            state: Mutex::new(State {
                files,
                flights: HashMap::new(),
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

    /// How many connections share the work.
    pub fn set_connections(&self, connections: usize) {
        self.lock().connections = connections.max(1);
    }

    /// What a connection of a certain pace does next.
    pub fn next(&self, pace: Pace) -> Next {
        let mut state = self.lock();
        let stuck = if state.is_throttled { None } else { state.take_over(pace, Flight::is_stuck) };
        let next = stuck
            .or_else(|| state.next_missing(pace))
            .or_else(|| state.take_over(pace, Flight::is_worth_taking));
        match next {
            Some(flight) => Next::Flight(flight),
            None => Next::Wait(Duration::from_millis(100)),
        }
    }

    /// Waits until something changes, `limit` at most.
    pub async fn wait(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.changed.notified()).await;
    }

    /// Asks for leave to write a chunk that has arrived in full.
    pub fn claim(&self, flight: &Flight, chunk: usize) -> Claim {
        let mut state = self.lock();
        let end = state.flights.get(&flight.id).map_or(0, |known| known.chunks.end);
        if chunk >= end {
            return Claim::Stop;
        }
        flight.progress.pending.store(0, Ordering::Relaxed);
        let file = &mut state.files[flight.file];
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
    pub fn written(&self, flight: &Flight, chunk: usize) -> bool {
        let mut state = self.lock();
        let file = &mut state.files[flight.file];
        file.chunks[chunk] = Chunk::Written;
        let gained = file.chunk_bytes(chunk);
        file.written += gained;
        file.advance_frontier();
        state.written += gained;
        state.last_gain = Instant::now();
        let own = state.flights.get_mut(&flight.id);
        let is_more_wanted = own.is_some_and(|own| {
            own.chunks.start = chunk + 1;
            !own.chunks.is_empty()
        });
        // A second request for the same chunk has become pointless.
        for other in state.flights.values() {
            let same =
                other.file == flight.file && other.id != flight.id && other.chunks == (chunk..chunk + 1);
            if same {
                other.progress.cancelled.notify_one();
            }
        }
        if state.files[flight.file].is_written() {
            self.changed.notify_waiters();
        }
        is_more_wanted
    }

    /// Gives a range back; what has not been written is missing again.
    pub fn end(&self, flight: &Flight) {
        let mut state = self.lock();
        let Some(own) = state.flights.remove(&flight.id) else { return };
        if own.is_whole {
            state.files[own.file].whole_is_taken = false;
        }
        let elsewhere: Vec<Range<usize>> = state
            .flights
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

    /// A chunk that was claimed could not be written.
    pub fn not_written(&self, flight: &Flight, chunk: usize) {
        let mut state = self.lock();
        state.files[flight.file].chunks[chunk] = Chunk::Fetched;
    }

    /// From now on the file is fetched in one stream: the server ignores ranges.
    ///
    /// Returns the flight to go on with, unless another connection has begun such a stream.
    pub fn ranges_are_ignored(&self, flight: &Flight) -> Option<Flight> {
        let mut state = self.lock();
        let file = &mut state.files[flight.file];
        file.is_whole = true;
        if flight.chunks.start != 0 || std::mem::replace(&mut file.whole_is_taken, true) {
            return None;
        }
        let chunks = 0..file.chunks.len();
        let own = state.flights.get_mut(&flight.id)?;
        own.chunks = chunks;
        own.is_whole = true;
        Some(own.clone())
    }

    /// These chunks of a file that is there are to be fetched again.
    pub fn fetch_again(&self, index: usize, chunks: &[usize]) {
        let mut state = self.lock();
        let file = &mut state.files[index];
        let mut bytes = 0;
        for &chunk in chunks {
            file.chunks[chunk] = Chunk::Missing;
            file.frontier = file.frontier.min(chunk);
            file.first_missing = file.first_missing.min(chunk);
            bytes += file.chunk_bytes(chunk);
        }
        file.written -= bytes;
        state.first_open = state.first_open.min(index);
        state.missing += bytes;
        state.written -= bytes;
        self.changed.notify_waiters();
    }

    /// How many bytes from the beginning of the file are written without a gap.
    pub fn frontier(&self, file: usize) -> u64 {
        let state = self.lock();
        let file = &state.files[file];
        (file.frontier as u64 * CHUNK).min(file.size)
    }

    /// Bytes that have arrived, including those of chunks not yet complete.
    pub fn arrived(&self) -> u64 {
        let state = self.lock();
        let pending: u64 =
            state.flights.values().map(|flight| flight.progress.pending.load(Ordering::Relaxed)).sum();
        state.written + pending
    }

    /// Files that some connection is fetching, in order, each with the bytes that have arrived.
    pub fn active_files(&self) -> Vec<(usize, u64)> {
        let state = self.lock();
        let mut files = BTreeMap::new();
        for flight in state.flights.values() {
            let arrived = files.entry(flight.file).or_insert(state.files[flight.file].written);
            *arrived += flight.progress.pending.load(Ordering::Relaxed);
        }
        files.into_iter().collect()
    }

    /// When a chunk was last written.
    pub fn last_gain(&self) -> Instant {
        self.lock().last_gain
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The first run of missing chunks, as long as suits the connection.
    fn next_missing(&mut self, pace: Pace) -> Option<Flight> {
        while self.files.get(self.first_open).is_some_and(|file| file.missing_from().is_none()) {
            self.first_open += 1;
        }
        let fair = (self.missing / CHUNK) as usize / (2 * self.connections);
        let mut length = pace.range(fair);
        if pace.speed.is_none() {
            // Connections that begin together, with ranges of one length, would also wait together.
            length = (length * (1 + self.flights.len())).div_ceil(self.connections).min(length);
        }
        for index in self.first_open..self.files.len() {
            let file = &mut self.files[index];
            let Some(first) = file.missing_from() else { continue };
            file.first_missing = first;
            if file.is_whole {
                if std::mem::replace(&mut file.whole_is_taken, true) {
                    continue;
                }
                let chunks = 0..file.chunks.len();
                return Some(self.launch(index, chunks, true));
            }
            let run = file.chunks[first..].iter().take(length).take_while(|chunk| **chunk == Chunk::Missing);
            let chunks = first..first + run.count();
            return Some(self.launch(index, chunks, false));
        }
        None
    }

    /// The end of the range that would last longest, or once more a single chunk that is late; of those
    /// flights that have `need` of it.
    fn take_over(&mut self, pace: Pace, need: fn(&Flight, Pace) -> bool) -> Option<Flight> {
        let is_open = |flight: &&Flight| need(flight, pace) && !self.is_helped(flight, pace);
        let (_, id) =
            self.flights.values().filter(is_open).map(|flight| (flight.time_left(), flight.id)).max()?;
        let flight = self.flights.get_mut(&id)?;
        let (file, chunks) = (flight.file, flight.chunks.clone());
        if chunks.len() == 1 {
            return Some(self.launch(file, chunks, false));
        }
        let middle = chunks.start + flight.share(pace);
        flight.chunks.end = middle;
        Some(self.launch(file, middle..chunks.end, false))
    }

    /// Whether the last chunk of `flight` has been asked for again, and may well come that way.
    fn is_helped(&self, flight: &Flight, pace: Pace) -> bool {
        let is_same = |other: &&Flight| other.file == flight.file && other.chunks == flight.chunks;
        self.flights.values().filter(is_same).any(|other| !other.is_worth_taking(pace))
    }

    fn launch(&mut self, file: usize, chunks: Range<usize>, is_whole: bool) -> Flight {
        for chunk in chunks.clone() {
            let state = &mut self.files[file].chunks[chunk];
            if *state == Chunk::Missing {
                *state = Chunk::Fetched;
                self.missing -= self.files[file].chunk_bytes(chunk);
            }
        }
        self.next_id += 1;
        let flight = Flight {
            id: self.next_id,
            file,
            chunks,
            is_whole,
            begun: Instant::now(),
            progress: Arc::default(),
        };
        self.flights.insert(flight.id, flight.clone());
        flight
    }

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

impl FileState {
    fn new(size: u64, done: &[bool]) -> Self {
        let chunks = done.iter().map(|done| if *done { Chunk::Written } else { Chunk::Missing }).collect();
        let mut file = Self {
            size,
            chunks,
            written: 0,
            first_missing: 0,
            frontier: 0,
            is_whole: false,
            whole_is_taken: false,
        };
        file.written = size - file.missing();
        file.advance_frontier();
        file
    }

    fn missing_from(&self) -> Option<usize> {
        let found = self.chunks[self.first_missing..].iter().position(|chunk| *chunk == Chunk::Missing)?;
        Some(self.first_missing + found)
    }

    fn advance_frontier(&mut self) {
        while self.chunks.get(self.frontier) == Some(&Chunk::Written) {
            self.frontier += 1;
        }
    }

    fn is_written(&self) -> bool {
        self.frontier == self.chunks.len()
    }

    fn chunk_bytes(&self, chunk: usize) -> u64 {
        CHUNK.min(self.size - chunk as u64 * CHUNK)
    }

    fn missing(&self) -> u64 {
        let missing = |(index, chunk): (usize, &Chunk)| match chunk {
            Chunk::Missing => self.chunk_bytes(index),
            _ => 0,
        };
        self.chunks.iter().enumerate().map(missing).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(chunks: &[usize]) -> Schedule {
        Schedule::new(
            chunks.iter().map(|count| (*count as u64 * CHUNK, vec![false; *count])).collect(),
            false,
        )
    }

    fn next(schedule: &Schedule) -> Option<Flight> {
        match schedule.next(Pace::expected(Duration::ZERO)) {
            Next::Flight(flight) => Some(flight),
            Next::Wait(_) => None,
        }
    }

    #[test]
    fn every_chunk_is_handed_out_once_and_in_order() {
        let schedule = schedule(&[3, 100]);
        schedule.set_connections(4);
        let mut flights = Vec::new();
        while let Some(flight) = next(&schedule) {
            flights.push(flight);
        }
        let chunks: Vec<(usize, usize)> = flights
            .iter()
            .flat_map(|flight| flight.chunks.clone().map(|chunk| (flight.file, chunk)))
            .collect();
        let expected: Vec<(usize, usize)> =
            (0..3).map(|chunk| (0, chunk)).chain((0..100).map(|chunk| (1, chunk))).collect();
        assert_eq!(chunks, expected);
        schedule.end(&flights[0]);
        assert_eq!(next(&schedule).unwrap().file, 0, "what was not written is missing again");
    }

    #[test]
    fn connections_that_begin_together_do_not_end_together() {
        let schedule = schedule(&[1000]);
        schedule.set_connections(4);
        let lengths = || next(&schedule).unwrap().chunks.len();
        assert_eq!(std::array::from_fn(|_| lengths()), [2, 4, 6, 8, 8], "and no later one gets more");
    }

    #[test]
    fn a_chunk_is_written_by_one_connection_only() {
        let schedule = schedule(&[1]);
        let flight = next(&schedule).unwrap();
        assert_eq!(schedule.claim(&flight, 0), Claim::Write);
        assert_eq!(schedule.claim(&flight, 0), Claim::Skip);
        assert_eq!(schedule.frontier(0), 0);
        assert!(!schedule.written(&flight, 0));
        assert_eq!(schedule.frontier(0), CHUNK);
        schedule.end(&flight);
        assert!(next(&schedule).is_none());
        assert_eq!((schedule.arrived(), schedule.active_files()), (CHUNK, vec![]));
    }

    #[test]
    fn doubtful_chunks_are_fetched_again() {
        let schedule = Schedule::new(vec![(2 * CHUNK + 5, vec![true; 3])], false);
        assert!(next(&schedule).is_none());
        schedule.fetch_again(0, &[1, 2]);
        assert_eq!((schedule.frontier(0), schedule.arrived()), (CHUNK, CHUNK));
        assert_eq!(next(&schedule).unwrap().chunks, 1..3);
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

    #[test]
    fn a_last_chunk_is_asked_for_again_while_nobody_brings_it() {
        let schedule = schedule(&[1]);
        let first = next(&schedule).unwrap();
        assert!(next(&schedule).is_none(), "it has just begun");
        let age = |flight: &Flight| {
            schedule.lock().flights.get_mut(&flight.id).unwrap().begun -= Duration::from_secs(1);
        };
        age(&first);
        let second = next(&schedule).unwrap();
        assert_eq!(second.chunks, 0..1);
        assert!(next(&schedule).is_none(), "the second may bring it");
        age(&second);
        assert_eq!(next(&schedule).unwrap().chunks, 0..1, "neither does");
    }

    #[test]
    fn a_stuck_range_is_helped_before_anything_new_begins() {
        let schedule = schedule(&[1000]);
        let stuck = next(&schedule).unwrap();
        let (length, end) = (stuck.chunks.len(), stuck.chunks.end);
        schedule.lock().flights.get_mut(&stuck.id).unwrap().begun -= Duration::from_secs(10);
        schedule.lock().is_throttled = true;
        let new = next(&schedule).unwrap();
        assert_eq!(new.chunks, end..end + length, "its silence is our doing");
        schedule.end(&new);
        schedule.lock().is_throttled = false;
        assert_eq!(next(&schedule).unwrap().chunks, 1..end, "it keeps the chunk that has begun to come");
        assert_eq!(next(&schedule).unwrap().chunks, 0..1, "which is asked for again");
        assert_eq!(next(&schedule).unwrap().chunks, end..end + length, "then the rest");
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
        assert!(next(&schedule).is_none(), "nobody else fetches from it");
        schedule.end(&whole);
        assert!(next(&schedule).unwrap().is_whole);
    }
}
