//! The next range of chunks that no connection is fetching.

use std::ops::Range;

use super::State;
use super::chunks::Chunk;
use crate::disk::partial::CHUNK;
use crate::transfer::pace::Pace;
use crate::transfer::request::RangeRequest;

impl State {
    /// The first run of missing chunks, as long as suits the connection.
    pub(super) fn next_missing(&mut self, pace: Pace) -> Option<RangeRequest> {
        while self.files.get(self.first_open).is_some_and(|file| file.missing_from().is_none()) {
            self.first_open += 1;
        }
        let fair = (self.missing / CHUNK) as usize / (2 * self.connections);
        let mut length = pace.range(fair);
        if pace.speed.is_none() {
            // Connections that begin together, with ranges of one length, would also wait together.
            length = (length * (1 + self.requests.len())).div_ceil(self.connections).min(length);
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
                return Some(self.begin(index, chunks, true));
            }
            let run = file.chunks[first..].iter().take(length).take_while(|chunk| **chunk == Chunk::Missing);
            let chunks = first..first + run.count();
            return Some(self.begin(index, chunks, false));
        }
        None
    }

    /// Notes that a connection begins to fetch a range.
    pub(super) fn begin(&mut self, file: usize, chunks: Range<usize>, is_whole: bool) -> RangeRequest {
        for chunk in chunks.clone() {
            let state = &mut self.files[file].chunks[chunk];
            if *state == Chunk::Missing {
                *state = Chunk::Fetched;
                self.missing -= self.files[file].chunk_bytes(chunk);
            }
        }
        self.next_id += 1;
        let request = RangeRequest::new(self.next_id, file, chunks, is_whole);
        self.requests.insert(request.id, request.clone());
        request
    }
}

#[cfg(test)]
mod tests {
    use crate::transfer::schedule::tests::{next, schedule};

    #[test]
    fn every_chunk_is_handed_out_once_and_in_order() {
        let schedule = schedule(&[3, 100]);
        schedule.set_connections(4);
        let mut requests = Vec::new();
        while let Some(request) = next(&schedule) {
            requests.push(request);
        }
        let chunks: Vec<(usize, usize)> = requests
            .iter()
            .flat_map(|request| request.chunks.clone().map(|chunk| (request.file, chunk)))
            .collect();
        let expected: Vec<(usize, usize)> =
            (0..3).map(|chunk| (0, chunk)).chain((0..100).map(|chunk| (1, chunk))).collect();
        assert_eq!(chunks, expected);
        schedule.end(&requests[0]);
        assert_eq!(next(&schedule).unwrap().file, 0, "what was not written is missing again");
    }

    #[test]
    fn connections_that_begin_together_do_not_end_together() {
        let schedule = schedule(&[1000]);
        schedule.set_connections(4);
        let lengths = || next(&schedule).unwrap().chunks.len();
        assert_eq!(std::array::from_fn(|_| lengths()), [2, 4, 6, 8, 8], "and no later one gets more");
    }
}
