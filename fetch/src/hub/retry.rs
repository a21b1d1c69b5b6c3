//! Waits between tries: each twice as long as the one before, up to a longest.

use std::time::Duration;

/// The waits of one sequence of tries.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits that begin with `first`, double, and are never longer than `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Counts a failure and returns how long to wait before the next try.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let wait = self.first.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.longest);
        self.failures += 1;
        wait
    }

    /// The number of failures so far.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        let waits: Vec<u128> = (0..100).map(|_| backoff.next_wait().as_millis()).collect();
        assert_eq!(waits[..4], [200, 400, 800, 1600]);
        assert_eq!((waits[99], backoff.failures()), (15_000, 100));
    }
}
