//! How fast a run is, and how much memory it takes.

use std::fmt;
use std::time::Instant;

use common::device::{Device, peak_resident_memory, resident_memory};

use crate::record::Step;

/// Counts since some moment.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    tokens: usize,
    supervised: usize,
    device: Device,
}

/// Tokens a second, and memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// All tokens a second.
    pub tokens: f64,
    /// Trained tokens a second.
    pub supervised: f64,
    /// Bytes in use on the device, and the most that have been.
    pub memory: Option<(u64, u64)>,
}

impl Pace {
    /// Begins to count now.
    pub fn new(device: &Device) -> Self {
        Self { since: Instant::now(), tokens: 0, supervised: 0, device: device.clone() }
    }

    /// Counts a step.
    pub fn step(&mut self, step: &Step) -> Speed {
        self.tokens += step.tokens;
        self.supervised += step.supervised;
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        Speed {
            tokens: self.tokens as f64 / seconds,
            supervised: self.supervised as f64 / seconds,
            memory: match &self.device {
                Device::Cpu => resident_memory().zip(peak_resident_memory()),
                Device::Cuda(gpu) => gpu.memory().ok().map(|memory| (memory.used, memory.peak)),
            },
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} tokens/s ({:.0} trained)", self.tokens, self.supervised)?;
        match self.memory {
            Some((used, peak)) => write!(f, ", {} MiB (peak {})", used >> 20, peak >> 20),
            None => Ok(()),
        }
    }
}
