//! Chooses the number of connections: it grows for as long as more connections are faster.

use std::time::{Duration, Instant};

/// The number of connections to begin with, and the largest, where the user does not choose.
const FIRST: usize = 8;
const MOST: usize = 32;
/// How long the rate of a number of connections is measured.
const WINDOW: Duration = Duration::from_millis(400);
/// Twice the connections must be faster by this factor to be worth it.
const WORTH_IT: f64 = 1.15;

/// The number of connections, which only grows.
pub(super) struct Growth {
    current: usize,
    is_settled: bool,
    window_begun: Instant,
    window_bytes: u64,
    last_rate: f64,
}

impl Growth {
    /// A fixed number, or one that adapts.
    pub(super) fn new(fixed: Option<usize>) -> Self {
        Self {
            current: fixed.unwrap_or(FIRST),
            is_settled: fixed.is_some(),
            window_begun: Instant::now(),
            window_bytes: 0,
            last_rate: 0.0,
        }
    }

    /// The number of connections now; `arrived` bytes are there, and `is_limited` says that a server has
    /// asked for fewer requests.
    pub(super) fn connections(&mut self, arrived: u64, is_limited: bool) -> usize {
        self.observe(arrived, is_limited, self.window_begun.elapsed())
    }

    fn observe(&mut self, arrived: u64, is_limited: bool, elapsed: Duration) -> usize {
        if self.window_bytes == 0 {
            // The time until the first byte says nothing about the rate.
            (self.window_bytes, self.window_begun) = (arrived, Instant::now());
            return self.current;
        }
        if self.is_settled || elapsed < WINDOW {
            return self.current;
        }
        let rate = arrived.saturating_sub(self.window_bytes) as f64 / elapsed.as_secs_f64();
        let is_worth_it = rate > self.last_rate * WORTH_IT && !is_limited;
        if is_worth_it && self.current < MOST {
            self.current = (self.current * 2).min(MOST);
        } else {
            self.is_settled = true;
        }
        (self.last_rate, self.window_bytes, self.window_begun) = (rate, arrived, Instant::now());
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs windows of half a second at a rate that depends on the number of connections.
    fn settle(fixed: Option<usize>, is_limited: bool, rate: impl Fn(usize) -> u64) -> usize {
        let mut growth = Growth::new(fixed);
        let mut arrived = 1;
        for _ in 0..20 {
            let connections = growth.observe(arrived, is_limited, Duration::from_millis(500));
            arrived += rate(connections) / 2;
        }
        growth.current
    }

    #[test]
    fn grows_while_it_helps() {
        assert_eq!(settle(None, false, |connections| connections as u64 * 1000), MOST);
        assert_eq!(settle(None, false, |connections| connections.min(17) as u64 * 1000), 32);
        assert_eq!(settle(None, false, |connections| connections.min(9) as u64 * 1000), 16);
        assert_eq!(settle(None, false, |_| 1000), 2 * FIRST);
    }

    #[test]
    fn a_fixed_number_stays_and_a_server_may_ask_for_less() {
        assert_eq!(settle(Some(3), false, |connections| connections as u64 * 1000), 3);
        assert_eq!(settle(None, true, |connections| connections as u64 * 1000), FIRST);
    }
}
