//! `--max-rate`: a limit on the bytes a second of all connections together.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A limit on bytes a second, or none.
pub(super) struct RateLimit {
    bytes_per_second: Option<f64>,
    /// The time at which the limit has allowed all bytes taken so far.
    paid_until: Mutex<Instant>,
}

impl RateLimit {
    /// A limit of `bytes_per_second`.
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second: bytes_per_second.map(|rate| rate.max(1) as f64),
            paid_until: Mutex::new(Instant::now()),
        }
    }

    /// Takes `bytes`, waiting until the limit allows them.
    pub(super) async fn take(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        tokio::time::sleep(self.book(bytes as f64 / rate, Instant::now())).await;
    }

    /// Reserves `seconds` of the limit and returns how long to wait until they have passed.
    fn book(&self, seconds: f64, now: Instant) -> Duration {
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paid_until = (*paid_until).max(now) + Duration::from_secs_f64(seconds);
        *paid_until - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookings_queue_up_and_idle_time_is_not_saved() {
        let limit = RateLimit::new(Some(100));
        let start = Instant::now() + Duration::from_secs(1000);
        assert_eq!(limit.book(1.0, start), Duration::from_secs(1));
        assert_eq!(limit.book(1.0, start), Duration::from_secs(2));
        assert_eq!(limit.book(1.0, start + Duration::from_secs(60)), Duration::from_secs(1));
    }
}
