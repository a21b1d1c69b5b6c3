//! A range that a connection is fetching: which chunks, since when, and how much of it has arrived.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::pace::Pace;
use crate::disk::partial::CHUNK;

/// A range of chunks that one connection fetches.
#[derive(Clone)]
pub(super) struct RangeRequest {
    /// A number that no other request of the run has.
    pub id: u64,
    /// Index of the file.
    pub file: usize,
    /// Chunks asked for. Another connection may steal the last of them meanwhile.
    pub chunks: Range<usize>,
    /// Whether the whole file comes in one stream, with the chunks that are there already.
    pub is_whole: bool,
    /// When the range was asked for.
    pub begun: Instant,
    /// What has arrived; shared between the connection and the schedule.
    pub progress: Arc<RangeProgress>,
}

/// How much of a range has arrived, and when.
#[derive(Default)]
pub(super) struct RangeProgress {
    /// Bytes received.
    pub received: AtomicU64,
    /// Bytes received of a chunk that is not yet written.
    pub pending: AtomicU64,
    /// Microseconds from the request to the first byte.
    pub first_byte: AtomicU64,
    /// Microseconds from the request to the last byte.
    pub last_byte: AtomicU64,
    /// Notified when nothing of the range is needed any more.
    pub cancelled: Notify,
}

impl RangeRequest {
    /// A range that is asked for now.
    pub(super) fn new(id: u64, file: usize, chunks: Range<usize>, is_whole: bool) -> Self {
        Self { id, file, chunks, is_whole, begun: Instant::now(), progress: Arc::default() }
    }

    /// Counts bytes of the first chunk that an earlier connection has received.
    pub(super) fn begin_with(&self, bytes: u64) {
        self.progress.pending.store(bytes, Ordering::Relaxed);
    }

    /// Counts bytes as they arrive.
    pub(super) fn receive(&self, bytes: u64) {
        let before = self.progress.received.fetch_add(bytes, Ordering::Relaxed);
        self.progress.pending.fetch_add(bytes, Ordering::Relaxed);
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        if before == 0 {
            self.progress.first_byte.store(now, Ordering::Relaxed);
        }
        self.progress.last_byte.store(now, Ordering::Relaxed);
    }

    /// Bytes a second since the request.
    pub(super) fn speed(&self) -> f64 {
        self.progress.received.load(Ordering::Relaxed) as f64 / self.begun.elapsed().as_secs_f64().max(1e-6)
    }

    /// How long the rest of the range takes at the speed since the request; at most a day.
    pub(super) fn time_left(&self) -> Duration {
        let pending = self.progress.pending.load(Ordering::Relaxed);
        let left = (self.chunks.len() as u64 * CHUNK).saturating_sub(pending);
        Duration::from_secs_f64((left as f64 / self.speed().max(1.0)).min(86_400.0))
    }

    /// The speed and waiting time that the connection has shown with this range.
    pub(super) fn pace(&self) -> Pace {
        let wait = self.progress.first_byte.load(Ordering::Relaxed) as f64 / 1e6;
        let elapsed = (self.begun.elapsed().as_secs_f64() - wait).max(1e-6);
        let received = self.progress.received.load(Ordering::Relaxed) as f64;
        Pace { speed: Some(received / elapsed), wait }
    }

    /// How long ago the last byte came, or the request was made.
    pub(super) fn silence(&self) -> Duration {
        let last_byte = Duration::from_micros(self.progress.last_byte.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last_byte)
    }
}
