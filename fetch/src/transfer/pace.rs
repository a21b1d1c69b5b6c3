//! The speed that a connection has shown, and how long its next range should be.

use std::ops::Range;
use std::time::Duration;

use crate::disk::partial::CHUNK;

/// A range takes this many times as long as the server takes to begin it, while much is left to fetch.
/// The shorter ranges are, the sooner the beginning of a file is without gaps and can be hashed.
const MANY_WAITS: f64 = 20.0;
/// Longest time that a range should take, in seconds.
const RANGE_SECONDS: f64 = 2.0;
/// Shortest and longest range, in chunks, while much is left to fetch.
const RANGE_CHUNKS: Range<usize> = 8..256;
/// A range takes at least this many times as long as the server takes to begin it.
const FEW_WAITS: f64 = 2.0;
/// Shortest range, in chunks, when the end is near and all connections are to share what is left.
const SHORTEST: usize = 4;
/// Bytes a second that are expected of a connection before its first range.
const USUAL_SPEED: f64 = (8 << 20) as f64;

/// The speed and the waiting time of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Bytes a second, from the first byte on; `None` before the first range.
    pub speed: Option<f64>,
    /// Seconds from a request to its first byte.
    pub wait: f64,
}

impl Pace {
    /// The pace of a connection that has not fetched a range yet, from a server that takes `wait` to answer.
    pub(super) fn expected(wait: Duration) -> Self {
        Self { speed: None, wait: wait.as_secs_f64() }
    }

    /// The number of chunks that keeps the connection busy; `fair` is its share of what is left.
    pub(super) fn range(self, fair: usize) -> usize {
        let chunks = |speed: f64, seconds: f64| (speed * seconds) as usize / CHUNK as usize;
        let shortest = self.speed.map_or(SHORTEST, |speed| chunks(speed, self.wait * FEW_WAITS));
        let shortest = shortest.clamp(SHORTEST, RANGE_CHUNKS.end);
        let seconds = (self.wait * MANY_WAITS).min(RANGE_SECONDS);
        let long = chunks(self.speed.unwrap_or(USUAL_SPEED), seconds);
        long.clamp(RANGE_CHUNKS.start, RANGE_CHUNKS.end).min(fair.max(shortest))
    }

    /// Twice the usual wait for a first byte: before that, a slow server is not late.
    pub(super) fn usual_wait(self) -> Duration {
        Duration::from_secs_f64(2.0 * self.wait.clamp(0.0, 3600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: f64 = 1e6;

    #[test]
    fn ranges_suit_the_connection() {
        let range =
            |speed, wait, fair| Pace { speed: Some(speed), wait }.range(fair) as f64 * CHUNK as f64 / MB;
        assert!((1.0..4.0).contains(&range(1.0 * MB, 0.05, 1000)), "slow: a few megabytes");
        assert!((15.0..25.0).contains(&range(20.0 * MB, 0.05, 1000)), "twenty times the wait");
        assert!((30.0..50.0).contains(&range(20.0 * MB, 5.0, 1000)), "two seconds' worth at most");
        assert!((1.0..4.0).contains(&range(20.0 * MB, 0.001, 1000)), "asking costs next to nothing");
        assert!(range(20.0 * MB, 0.05, 1) < 4.0, "near the end all share what is left");
        assert!(range(200.0 * MB, 0.05, 1) > 15.0, "unless asking takes longer than fetching");
        let first = |wait, fair| Pace::expected(Duration::from_secs_f64(wait)).range(fair);
        assert_eq!((first(0.0, 1000), first(1.0, 1000), first(1.0, 1)), (8, 64, SHORTEST));
    }
}
