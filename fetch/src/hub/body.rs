//! The body of an answer, piece by piece; a server that stalls or hardly sends is a failure.

use std::time::{Duration, Instant};

use reqwest::Response;

use super::Failure;
use super::failure::{chain, host};

/// The least speed in bytes a second: a slower server might never end.
const SLOWEST: f64 = 1024.0;

/// A body that is being read.
pub(crate) struct Body {
    response: Response,
    /// The longest silence, and the time over which the speed is measured.
    timeout: Duration,
    /// Time spent waiting for the server since the speed was last measured.
    waited: Duration,
    /// Bytes received in that time.
    received: u64,
}

impl Body {
    /// The body of `response`, which may be silent for `timeout` at most.
    pub(crate) fn new(response: Response, timeout: Duration) -> Self {
        Self { response, timeout, waited: Duration::ZERO, received: 0 }
    }

    /// The next piece, or `None` at the end of the body.
    pub(crate) async fn next(&mut self) -> Result<Option<bytes::Bytes>, Failure> {
        let begun = Instant::now();
        let piece = match tokio::time::timeout(self.timeout, self.response.chunk()).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(error)) => {
                let error = chain(&error.without_url());
                return Err(Failure::transient(format_args!("{}: {error}", host(self.response.url()))));
            }
            Err(_) => {
                return Err(Failure::transient(format_args!(
                    "{}: stalled, no byte for {} s",
                    host(self.response.url()),
                    self.timeout.as_secs_f32()
                )));
            }
        };
        self.waited += begun.elapsed();
        self.received += piece.len() as u64;
        if self.waited >= self.timeout {
            let seconds = self.waited.as_secs_f64();
            if (self.received as f64) < SLOWEST * seconds {
                return Err(Failure::transient(format_args!(
                    "{}: only {} bytes in {seconds:.1} s",
                    host(self.response.url()),
                    self.received
                )));
            }
            (self.waited, self.received) = (Duration::ZERO, 0);
        }
        Ok(Some(piece))
    }
}
