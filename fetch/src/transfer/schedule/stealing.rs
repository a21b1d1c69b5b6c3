//! Help for slow connections: an idle connection steals the end of another one's range, or asks once
//! more for its last chunk.

use std::time::Duration;

use super::State;
use crate::transfer::pace::Pace;
use crate::transfer::request::RangeRequest;

/// An idle connection steals from one that would need longer than this.
const WORTH_STEALING: Duration = Duration::from_millis(300);
/// A chunk that would need longer than this, or of which no byte comes for this long, is asked for a
/// second time when nothing else is left.
const WORTH_ASKING_AGAIN: Duration = Duration::from_millis(500);
/// A connection that is silent for this long is stuck, and is helped although much else is left.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// A connection is helped, too, that would need longer than this at less than this fraction of another connection's
/// speed.
const FAR_TOO_SLOW: (Duration, f64) = (Duration::from_secs(10), 0.2);

impl State {
    /// The end of the range that would last longest, or its last chunk once more, if that chunk is late;
    /// from the requests for which `needs_help` is true.
    pub(super) fn steal(
        &mut self,
        pace: Pace,
        needs_help: fn(&RangeRequest, Pace) -> bool,
    ) -> Option<RangeRequest> {
        let is_open = |request: &&RangeRequest| needs_help(request, pace) && !self.is_helped(request, pace);
        let (_, id) =
            self.requests.values().filter(is_open).map(|request| (request.time_left(), request.id)).max()?;
        let request = self.requests.get_mut(&id)?;
        let (file, chunks) = (request.file, request.chunks.clone());
        if chunks.len() == 1 {
            return Some(self.begin(file, chunks, false));
        }
        let middle = chunks.start + request.share(pace);
        request.chunks.end = middle;
        Some(self.begin(file, middle..chunks.end, false))
    }

    /// Whether another connection fetches the same last chunk, and is likely to bring it.
    fn is_helped(&self, request: &RangeRequest, pace: Pace) -> bool {
        let is_same = |other: &&RangeRequest| other.file == request.file && other.chunks == request.chunks;
        self.requests.values().filter(is_same).any(|other| !other.is_worth_helping(pace))
    }
}

impl RangeRequest {
    /// Whether an idle connection of a certain `pace` should help.
    pub(super) fn is_worth_helping(&self, pace: Pace) -> bool {
        let is_late = match self.chunks.len() {
            0 => false,
            1 => self.is_silent(pace) || self.time_left() > WORTH_ASKING_AGAIN,
            _ => self.is_silent(pace) || self.time_left() > WORTH_STEALING,
        };
        is_late && !self.is_whole && self.begun.elapsed() > WORTH_STEALING.max(pace.usual_wait())
    }

    /// Whether an idle connection of a certain `pace` should help before it begins a new range: otherwise
    /// one connection after the other could get stuck for as long as chunks are missing.
    pub(super) fn is_stuck(&self, pace: Pace) -> bool {
        let (long, fraction) = FAR_TOO_SLOW;
        let is_slower = pace.speed.is_some_and(|speed| self.speed() < fraction * speed);
        let is_stuck = self.silence() > STUCK_AFTER || (is_slower && self.time_left() > long);
        self.begun.elapsed() > STUCK_AFTER && is_stuck && self.is_worth_helping(pace)
    }

    /// How many chunks the slow connection keeps when one of a certain `pace` steals the others: as many
    /// as let both end together, or only the first, if the slow connection is silent.
    fn share(&self, pace: Pace) -> usize {
        let (own, count) = (self.speed(), self.chunks.len());
        let other = pace.speed.unwrap_or(own);
        let fair = (count as f64 * own / (own + other).max(1.0)).ceil() as usize;
        if self.is_silent(pace) { 1 } else { fair.clamp(1, count.max(2) - 1) }
    }

    fn is_silent(&self, pace: Pace) -> bool {
        self.silence() > WORTH_ASKING_AGAIN.max(pace.usual_wait())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    use super::*;
    use crate::transfer::schedule::tests::{next, schedule};

    const MB: f64 = 1e6;
    const LONG: Duration = Duration::from_secs(100);
    const NOW: Duration = Duration::ZERO;
    const AT_ONCE: Pace = Pace { speed: Some(MB), wait: 0.0 };

    /// A range of `chunks` chunks, asked for `age` ago; `received` bytes have come, the last of them
    /// `silent_for` ago.
    fn request(chunks: usize, age: Duration, received: u64, silent_for: Duration) -> RangeRequest {
        let mut request = RangeRequest::new(1, 0, 0..chunks, false);
        request.begun = Instant::now() - age;
        request.progress.received.store(received, Ordering::Relaxed);
        let last_byte = (age - silent_for).as_micros();
        request.progress.last_byte.store(u64::try_from(last_byte).unwrap(), Ordering::Relaxed);
        request
    }

    #[test]
    fn both_end_together_when_work_is_stolen() {
        let share = |request: &RangeRequest, speed| request.share(Pace { speed: Some(speed), wait: 0.0 });
        let slow = request(40, LONG, 100_000_000, NOW);
        assert_eq!(share(&slow, 1.0 * MB), 20, "as fast as the other");
        assert_eq!(share(&slow, 3.0 * MB), 10, "a third as fast");
        assert_eq!((share(&slow, 1000.0 * MB), share(&slow, 1.0)), (1, 39), "neither has nothing");
        assert_eq!(slow.share(Pace::expected(NOW)), 20, "half for one that has shown nothing yet");
        let silent = request(40, LONG, 1_000_000_000, Duration::from_secs(1));
        assert_eq!(share(&silent, 1.0 * MB), 1, "however fast it was");
    }

    #[test]
    fn help_is_for_those_who_need_it() {
        assert!(request(40, LONG, 100_000_000, NOW).is_worth_helping(AT_ONCE));
        assert!(request(1, LONG, 1_000_000, NOW).is_worth_helping(AT_ONCE), "a slow last chunk");
        assert!(
            request(1, LONG, 1_000_000_000, Duration::from_secs(1)).is_worth_helping(AT_ONCE),
            "a silent one"
        );
        assert!(!request(1, LONG, 1_000_000_000, NOW).is_worth_helping(AT_ONCE), "it is about to end");
        assert!(
            !request(40, Duration::from_millis(1), 0, NOW).is_worth_helping(AT_ONCE),
            "it has just begun"
        );
        assert!(!request(0, LONG, 0, LONG).is_worth_helping(AT_ONCE));
        let waiting = request(40, Duration::from_secs(1), 0, Duration::from_secs(1));
        let used_to = |wait| Pace { speed: Some(MB), wait };
        assert!(waiting.is_worth_helping(used_to(0.1)));
        assert!(!waiting.is_worth_helping(used_to(0.8)), "the server takes its time");
    }

    #[test]
    fn stuck_is_who_is_silent_or_far_slower_than_another() {
        let other = |speed| Pace { speed: Some(speed), wait: 0.05 };
        let slow = request(40, LONG, 10_000_000, NOW);
        assert!(slow.is_stuck(other(1.0 * MB)), "a tenth as fast");
        assert!(!slow.is_stuck(other(0.3 * MB)), "the line may be no faster");
        assert!(!slow.is_stuck(Pace::expected(NOW)), "the other has shown nothing yet");
        assert!(!request(40, Duration::from_secs(1), 0, NOW).is_stuck(other(MB)), "it has just begun");
        let silent = request(40, LONG, 1_000_000_000, Duration::from_secs(3));
        assert!(silent.is_stuck(Pace::expected(NOW)), "however fast it was");
    }

    #[test]
    fn a_last_chunk_is_asked_for_again_while_no_connection_brings_it() {
        let schedule = schedule(&[1]);
        let first = next(&schedule).unwrap();
        assert!(next(&schedule).is_none(), "it has just begun");
        let age = |request: &RangeRequest| {
            schedule.lock().requests.get_mut(&request.id).unwrap().begun -= Duration::from_secs(1);
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
        schedule.lock().requests.get_mut(&stuck.id).unwrap().begun -= Duration::from_secs(10);
        schedule.lock().is_throttled = true;
        let new = next(&schedule).unwrap();
        assert_eq!(new.chunks, end..end + length, "its silence is our doing");
        schedule.end(&new);
        schedule.lock().is_throttled = false;
        assert_eq!(next(&schedule).unwrap().chunks, 1..end, "it keeps the chunk that has begun to come");
        assert_eq!(next(&schedule).unwrap().chunks, 0..1, "which is asked for again");
        assert_eq!(next(&schedule).unwrap().chunks, end..end + length, "then the rest");
    }
}
