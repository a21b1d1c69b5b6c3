//! One worker of a download: a connection that fetches one range after the other, and what happens when
//! it fails.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use common::cli::{note, verbose};
use tokio::sync::mpsc;

use super::pace::Pace;
use super::range::{ArrivingChunk, End, RangeFetcher};
use super::request::RangeRequest;
use super::schedule::Next;
use super::shared::{Event, Shared};
use crate::hub::{Backoff, Connection, Failure};

/// First wait after a failure; doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// How much longer each wait is after a connection that broke in the middle; never longer than the first
/// wait.
const SHORT_WAIT: Duration = Duration::from_millis(10);
/// A connection that sent this many bytes before it broke counts as progress: the next one continues
/// after them.
const WORTH_KEEPING: u64 = 4096;

/// Fetches ranges until the download ends and drops this task.
pub(super) async fn work(shared: Arc<Shared>, events: mpsc::UnboundedSender<Event>) {
    if let Err(failure) = shared.fetch_ranges(&events).await {
        // The download may have ended, and then there is no receiver.
        let _ = events.send(Event::Failed(failure));
    }
}

impl Shared {
    async fn fetch_ranges(self: &Arc<Self>, events: &mpsc::UnboundedSender<Event>) -> Result<(), Failure> {
        let mut connection = self.connector.connect()?;
        let mut chunk = ArrivingChunk::default();
        let mut pace = Pace::expected(self.connector.quickest_answer().unwrap_or_default());
        let mut trouble = Trouble::default();
        loop {
            self.keep_quiet().await;
            let request = match self.schedule.next(pace) {
                Next::Fetch(request) => request,
                Next::Wait(limit) => {
                    self.schedule.wait(limit).await;
                    continue;
                }
            };
            let outcome = self.fetch_range(&connection, &request, &mut chunk, events).await;
            self.schedule.end(&request);
            match outcome {
                Ok(_) => {
                    trouble = Trouble::default();
                    pace = request.pace();
                }
                Err(failure) if !failure.is_passing() => return Err(failure),
                Err(failure) => {
                    let failure = failure.about(&self.remotes[request.file].name);
                    verbose(&failure);
                    let received = request.progress.received.load(Ordering::Relaxed);
                    let wait = trouble.add(received, self.schedule.last_gain());
                    if trouble.fruitless > self.network.retries {
                        return Err(failure);
                    }
                    self.back_off(&failure, wait).await;
                    connection = self.connector.connect()?;
                }
            }
        }
    }

    /// Fetches one range, unless another connection brings its last chunk first.
    async fn fetch_range(
        self: &Arc<Self>,
        connection: &Connection,
        request: &RangeRequest,
        chunk: &mut ArrivingChunk,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Result<End, Failure> {
        let fetcher = RangeFetcher {
            schedule: &self.schedule,
            token: self.token.as_ref(),
            rate: &self.rate,
            leftovers: &self.leftovers,
        };
        let file = &self.remotes[request.file];
        let on_chunk = || self.follow(request.file, events);
        tokio::select! {
            outcome = fetcher.fetch(connection, file, request, chunk, on_chunk) => outcome,
            () = request.progress.cancelled.notified() => Ok(End::Done),
        }
    }

    /// Waits after a failure. If the server asks for a longer wait, all workers keep to it.
    async fn back_off(&self, failure: &Failure, wait: Duration) {
        if let Some(asked) = failure.wait_asked_for() {
            let until = Instant::now() + asked;
            let mut quiet_until = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
            if asked > Duration::from_secs(1) && until > *quiet_until + Duration::from_secs(1) {
                note(format_args!("{failure}; waiting {} s as the server asks", asked.as_secs()));
            }
            *quiet_until = until.max(*quiet_until);
            self.is_limited.store(true, Ordering::Relaxed);
        }
        tokio::time::sleep(wait).await;
    }

    /// Waits for as long as a server has asked all workers to.
    async fn keep_quiet(&self) {
        loop {
            let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

/// The failures of one worker since its last range.
struct Trouble {
    backoff: Backoff,
    /// Failures since any worker last completed a chunk.
    fruitless: u32,
    /// When the last failure was.
    last: Option<Instant>,
}

impl Default for Trouble {
    fn default() -> Self {
        Self { backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT), fruitless: 0, last: None }
    }
}

impl Trouble {
    /// Counts a failure after `received` bytes, and returns how long to wait before the next try.
    fn add(&mut self, received: u64, last_gain: Instant) -> Duration {
        if received >= WORTH_KEEPING || self.last.is_some_and(|last| last < last_gain) {
            self.fruitless = 0;
        }
        self.last = Some(Instant::now());
        self.fruitless += 1;
        // A connection that broke in the middle can most likely be opened again at once.
        let short = (SHORT_WAIT * self.backoff.failures()).min(FIRST_WAIT);
        let long = self.backoff.next_wait();
        if received == 0 { long } else { short }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_a_connection_that_breaks_is_opened_again_at_once() {
        let now = Instant::now();
        let waits = |received| {
            let mut trouble = Trouble::default();
            (0..9).map(|_| trouble.add(received, now).as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(waits(0)[..3], [200, 400, 800]);
        assert_eq!(waits(0)[8], LONGEST_WAIT.as_millis());
        assert_eq!(waits(1)[..3], [0, 10, 20]);
    }

    #[test]
    fn who_brings_little_and_breaks_is_given_up_all_the_same() {
        let fruitless = |received| {
            let mut trouble = Trouble::default();
            for _ in 0..9 {
                trouble.add(received, Instant::now() - LONGEST_WAIT);
            }
            trouble.fruitless
        };
        assert_eq!((fruitless(1), fruitless(WORTH_KEEPING)), (9, 1));
    }
}
