//! A range on its way over one connection, and what the connection has shown of itself.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::disk::partial::CHUNK;

/// A range takes so many times as long as the server takes to begin it, while there is enough to do.
/// The shorter ranges are, the sooner is a file contiguous enough to be hashed.
const MANY_WAITS: f64 = 20.0;
/// It takes this long at most.
const RANGE_SECONDS: f64 = 2.0;
/// Shortest and longest range, in chunks, while there is enough to do.
const RANGE_CHUNKS: Range<usize> = 8..256;
/// A range takes at least so many times as long as the server takes to begin it.
const FEW_WAITS: f64 = 2.0;
/// Shortest range, in chunks, when the end is near and all connections are to share it.
const SHORTEST: usize = 4;
/// Bytes a second that a connection is expected to bring before it has shown what it can.
const USUAL_SPEED: f64 = (8 << 20) as f64;
/// An idle connection takes work from one that would need longer than this.
const WORTH_TAKING: Duration = Duration::from_millis(300);
/// Silence, and time that a range would still need at a fraction of another connection's speed, after
/// which a connection is helped although there is enough else to do.
const STUCK_AFTER: Duration = Duration::from_secs(2);
const FAR_TOO_SLOW: (Duration, f64) = (Duration::from_secs(10), 0.2);
/// A chunk that would need longer than this, or comes no further for so long, is asked for a second
/// time when nothing else is left.
const WORTH_ASKING_AGAIN: Duration = Duration::from_millis(500);

/// A range on its way, as one connection sees it.
#[derive(Clone)]
pub struct Flight {
    /// Tells it from others.
    pub id: u64,
    /// Index of the file.
    pub file: usize,
    /// Chunks asked for. Others may take the last of them over meanwhile.
    pub chunks: Range<usize>,
    /// The whole file in one stream, chunks that are there already included.
    pub is_whole: bool,
    /// When it was asked for.
    pub begun: Instant,
    /// Shared between the connection and the scheduler.
    pub progress: Arc<Progress>,
}

/// What a connection tells while it is fetching.
#[derive(Default)]
pub struct Progress {
    /// Bytes received.
    pub received: AtomicU64,
    /// Bytes received of a chunk that is not yet written.
    pub pending: AtomicU64,
    /// Microseconds from the request to the first byte.
    first_byte: AtomicU64,
    /// Microseconds from the request to the last byte.
    last_byte: AtomicU64,
    /// Nothing of the range is needed any more.
    pub cancelled: Notify,
}

/// What a connection has shown of itself.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes a second, from the first byte on; `None` before the first range.
    pub speed: Option<f64>,
    /// Seconds from a request to its first byte.
    pub wait: f64,
}

impl Pace {
    /// Of a connection that has not brought a range yet, to a server that takes `wait` to answer.
    pub fn expected(wait: Duration) -> Self {
        Self { speed: None, wait: wait.as_secs_f64() }
    }

    /// A range that keeps the connection busy, given a fair share of what is left; in chunks.
    pub fn range(self, fair: usize) -> usize {
        let chunks = |speed: f64, seconds: f64| (speed * seconds) as usize / CHUNK as usize;
        let shortest = self.speed.map_or(SHORTEST, |speed| chunks(speed, self.wait * FEW_WAITS));
        let shortest = shortest.clamp(SHORTEST, RANGE_CHUNKS.end);
        let seconds = (self.wait * MANY_WAITS).min(RANGE_SECONDS);
        let long = chunks(self.speed.unwrap_or(USUAL_SPEED), seconds);
        long.clamp(RANGE_CHUNKS.start, RANGE_CHUNKS.end).min(fair.max(shortest))
    }

    /// A server that takes long to begin is not late before it takes twice as long.
    fn usual_wait(self) -> Duration {
        Duration::from_secs_f64(2.0 * self.wait.clamp(0.0, 3600.0))
    }
}

impl Flight {
    /// Counts bytes of the first chunk that an earlier connection has brought.
    pub fn begin_with(&self, bytes: u64) {
        self.progress.pending.store(bytes, Ordering::Relaxed);
    }

    /// Counts bytes as they arrive.
    pub fn receive(&self, bytes: u64) {
        let before = self.progress.received.fetch_add(bytes, Ordering::Relaxed);
        self.progress.pending.fetch_add(bytes, Ordering::Relaxed);
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        if before == 0 {
            self.progress.first_byte.store(now, Ordering::Relaxed);
        }
        self.progress.last_byte.store(now, Ordering::Relaxed);
    }

    /// Bytes a second since the request.
    fn speed(&self) -> f64 {
        self.progress.received.load(Ordering::Relaxed) as f64 / self.begun.elapsed().as_secs_f64().max(1e-6)
    }

    /// How long the rest of the range takes at the speed since the request; at most a day.
    pub fn time_left(&self) -> Duration {
        let pending = self.progress.pending.load(Ordering::Relaxed);
        let left = (self.chunks.len() as u64 * CHUNK).saturating_sub(pending);
        Duration::from_secs_f64((left as f64 / self.speed().max(1.0)).min(86_400.0))
    }

    /// Whether an idle connection of a certain `pace` should help.
    pub fn is_worth_taking(&self, pace: Pace) -> bool {
        let is_late = match self.chunks.len() {
            0 => false,
            1 => self.is_silent(pace) || self.time_left() > WORTH_ASKING_AGAIN,
            _ => self.is_silent(pace) || self.time_left() > WORTH_TAKING,
        };
        is_late && !self.is_whole && self.begun.elapsed() > WORTH_TAKING.max(pace.usual_wait())
    }

    /// Whether an idle connection of a certain `pace` should help before it begins anything new: else
    /// connections would get stuck one after the other for as long as there is enough to do.
    pub fn is_stuck(&self, pace: Pace) -> bool {
        let (long, fraction) = FAR_TOO_SLOW;
        let is_slower = pace.speed.is_some_and(|speed| self.speed() < fraction * speed);
        let is_stuck = self.silence() > STUCK_AFTER || (is_slower && self.time_left() > long);
        self.begun.elapsed() > STUCK_AFTER && is_stuck && self.is_worth_taking(pace)
    }

    /// How many chunks a connection keeps from which one of a certain `pace` takes over: so many
    /// that both end together; where nothing comes any more, the one that has begun to come.
    pub fn share(&self, pace: Pace) -> usize {
        let (own, count) = (self.speed(), self.chunks.len());
        let other = pace.speed.unwrap_or(own);
        let fair = (count as f64 * own / (own + other).max(1.0)).ceil() as usize;
        if self.is_silent(pace) { 1 } else { fair.clamp(1, count.max(2) - 1) }
    }

    /// How the connection has done.
    pub fn pace(&self) -> Pace {
        let wait = self.progress.first_byte.load(Ordering::Relaxed) as f64 / 1e6;
        let elapsed = (self.begun.elapsed().as_secs_f64() - wait).max(1e-6);
        let received = self.progress.received.load(Ordering::Relaxed) as f64;
        Pace { speed: Some(received / elapsed), wait }
    }

    fn is_silent(&self, pace: Pace) -> bool {
        self.silence() > WORTH_ASKING_AGAIN.max(pace.usual_wait())
    }

    /// How long ago the last byte came, or the request was made.
    fn silence(&self) -> Duration {
        let last_byte = Duration::from_micros(self.progress.last_byte.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last_byte)
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

    /// A range of so many chunks, asked for `age` ago; `received` bytes have come, the last of them
    /// `silent_for` ago.
    fn flight(chunks: usize, age: Duration, received: u64, silent_for: Duration) -> Flight {
        let flight = Flight {
            id: 1,
            file: 0,
            chunks: 0..chunks,
            is_whole: false,
            begun: Instant::now() - age,
            progress: Arc::default(),
        };
        flight.progress.received.store(received, Ordering::Relaxed);
        let last_byte = (age - silent_for).as_micros();
        flight.progress.last_byte.store(u64::try_from(last_byte).unwrap(), Ordering::Relaxed);
        flight
    }

    const LONG: Duration = Duration::from_secs(100);
    const NOW: Duration = Duration::ZERO;
    const AT_ONCE: Pace = Pace { speed: Some(MB), wait: 0.0 };

    #[test]
    fn both_end_together_when_work_is_taken_over() {
        let share = |flight: &Flight, speed| flight.share(Pace { speed: Some(speed), wait: 0.0 });
        let slow = flight(40, LONG, 100_000_000, NOW);
        assert_eq!(share(&slow, 1.0 * MB), 20, "as fast as the other");
        assert_eq!(share(&slow, 3.0 * MB), 10, "a third as fast");
        assert_eq!((share(&slow, 1000.0 * MB), share(&slow, 1.0)), (1, 39), "neither has nothing");
        assert_eq!(slow.share(Pace::expected(NOW)), 20, "half for one that has shown nothing yet");
        let silent = flight(40, LONG, 1_000_000_000, Duration::from_secs(1));
        assert_eq!(share(&silent, 1.0 * MB), 1, "however fast it was");
    }

    #[test]
    fn help_is_for_those_who_need_it() {
        assert!(flight(40, LONG, 100_000_000, NOW).is_worth_taking(AT_ONCE));
        assert!(flight(1, LONG, 1_000_000, NOW).is_worth_taking(AT_ONCE), "a slow last chunk");
        assert!(
            flight(1, LONG, 1_000_000_000, Duration::from_secs(1)).is_worth_taking(AT_ONCE),
            "a silent one"
        );
        assert!(!flight(1, LONG, 1_000_000_000, NOW).is_worth_taking(AT_ONCE), "it is about to end");
        assert!(!flight(40, Duration::from_millis(1), 0, NOW).is_worth_taking(AT_ONCE), "it has just begun");
        assert!(!flight(0, LONG, 0, LONG).is_worth_taking(AT_ONCE));
        let waiting = flight(40, Duration::from_secs(1), 0, Duration::from_secs(1));
        let used_to = |wait| Pace { speed: Some(MB), wait };
        assert!(waiting.is_worth_taking(used_to(0.1)));
        assert!(!waiting.is_worth_taking(used_to(0.8)), "the server takes its time");
    }

    #[test]
    fn stuck_is_who_is_silent_or_far_slower_than_another() {
        let other = |speed| Pace { speed: Some(speed), wait: 0.05 };
        let slow = flight(40, LONG, 10_000_000, NOW);
        assert!(slow.is_stuck(other(1.0 * MB)), "a tenth as fast");
        assert!(!slow.is_stuck(other(0.3 * MB)), "the line may be no faster");
        assert!(!slow.is_stuck(Pace::expected(NOW)), "the other has shown nothing yet");
        assert!(!flight(40, Duration::from_secs(1), 0, NOW).is_stuck(other(MB)), "it has just begun");
        let silent = flight(40, LONG, 1_000_000_000, Duration::from_secs(3));
        assert!(silent.is_stuck(Pace::expected(NOW)), "however fast it was");
    }
}
