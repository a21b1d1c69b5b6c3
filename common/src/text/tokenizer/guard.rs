//! Runs work of the tokenizers library with a bound on its time, and turns its panics into errors.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

use crate::panics::{caught, stop};
use crate::{Error, Result, error};

/// The processor time that a tokenizer has for each byte of input. Usual ones take a microsecond.
const NANOSECONDS_PER_BYTE: u64 = 50_000;
/// The processor time that a tokenizer has in addition.
const NANOSECONDS: u64 = 4_000_000_000;

thread_local! {
    /// The processor time of this thread at which the work under way is stopped.
    static STOPPED_AT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// The guard of one tokenizer, which is not called again after a failure.
#[derive(Default)]
pub(super) struct Guard {
    failure: OnceLock<String>,
    /// The processor time that all threads have taken.
    nanoseconds: AtomicU64,
    bytes: AtomicU64,
}

impl Guard {
    /// Runs work of the tokenizer on an input of `bytes` bytes. Fails where the work panics or is stopped.
    pub(super) fn run<T>(&self, bytes: usize, work: impl FnOnce() -> T) -> Result<T> {
        if let Some(reason) = self.failure.get() {
            return Err(failed(reason));
        }
        let begun = processor_time();
        let bytes = bytes as u64 + self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let allowed = NANOSECONDS.saturating_add(bytes.saturating_mul(NANOSECONDS_PER_BYTE));
        let left = allowed.saturating_sub(self.nanoseconds.load(Ordering::Relaxed));
        STOPPED_AT.set(begun.saturating_add(left));
        let outcome = caught(work);
        STOPPED_AT.set(u64::MAX);
        self.nanoseconds.fetch_add(processor_time().saturating_sub(begun), Ordering::Relaxed);
        outcome.map_err(|reason| failed(self.failure.get_or_init(|| reason)))
    }
}

fn failed(reason: &str) -> Error {
    error!(Malformed, "the model's tokenizer fails: {reason}")
        .hint("its tokenizer.json is damaged or not meant for use: fetch the model again, or another")
}

/// Stops the work of this thread once it has taken too long. The steps of a tokenizer call it regularly.
pub(super) fn check_time() {
    if processor_time() > STOPPED_AT.get() {
        stop("it takes far too long".to_owned());
    }
}

/// The processor time of this thread, in nanoseconds, which other load on the machine does not change.
fn processor_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_nothing_more_is_asked() {
        let guard = Guard::default();
        assert_eq!(guard.run(1, || 1).unwrap(), 1);
        let error = guard
            .run(1, || {
                if true {
                    panic!("retry-limit")
                }
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "the model's tokenizer fails: retry-limit");
        let error = guard
            .run(1, || {
                if true {
                    unreachable!()
                }
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "the model's tokenizer fails: retry-limit");
    }

    #[test]
    fn endless_work_is_stopped() {
        let guard = Guard { nanoseconds: AtomicU64::new(NANOSECONDS), ..Guard::default() };
        let work = || {
            while std::hint::black_box(true) {
                check_time();
            }
        };
        assert!(guard.run(0, work).unwrap_err().to_string().contains("far too long"));
    }
}
