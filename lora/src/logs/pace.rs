//! The pace of a run: tokens per second, memory in use and the load of the GPU.

use std::fmt;
use std::time::Instant;

use common::device::Device;
use common::device::cuda::Utilization;
use common::host_memory::{peak_resident_memory, resident_memory};

use crate::logs::step::StepReport;

/// Counts tokens since it was made or restarted.
pub struct Pace {
    since: Instant,
    tokens: usize,
    supervised: usize,
    /// The sum and the number of the GPU loads in percent that were seen.
    busy: (u32, u32),
    device: Device,
    utilization: Option<Utilization>,
}

/// The speed of a run and what it uses of the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Tokens per second, prompts included.
    pub tokens: f64,
    /// Supervised tokens per second.
    pub supervised: f64,
    /// The bytes in use on the device now and at most so far; `None` where they cannot be read.
    pub memory: Option<(u64, u64)>,
    /// The percent of the time in which the GPU works; `None` where it cannot be read.
    pub utilization: Option<u32>,
}

impl Pace {
    /// Begins to count.
    pub fn new(device: &Device) -> Self {
        let utilization = match device {
            Device::Cpu => None,
            Device::Cuda(gpu) => Utilization::of(gpu),
        };
        let device = device.clone();
        Self { since: Instant::now(), tokens: 0, supervised: 0, busy: (0, 0), device, utilization }
    }

    /// Begins to count again.
    pub fn restart(&mut self) {
        (self.since, self.tokens, self.supervised, self.busy) = (Instant::now(), 0, 0, (0, 0));
    }

    /// Counts a step and returns the speed since counting began.
    pub fn step(&mut self, step: &StepReport) -> Speed {
        self.tokens += step.tokens;
        self.supervised += step.supervised;
        if let Some(percent) = self.utilization.as_ref().and_then(Utilization::percent) {
            self.busy = (self.busy.0 + percent, self.busy.1 + 1);
        }
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        Speed {
            tokens: self.tokens as f64 / seconds,
            supervised: self.supervised as f64 / seconds,
            memory: match &self.device {
                Device::Cpu => resident_memory().zip(peak_resident_memory()),
                Device::Cuda(gpu) => gpu.memory().ok().map(|memory| (memory.used, memory.peak)),
            },
            utilization: self.busy.0.checked_div(self.busy.1),
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} tokens/s ({:.0} trained)", self.tokens, self.supervised)?;
        if let Some((used, peak)) = self.memory {
            write!(f, ", {} MiB (peak {})", used >> 20, peak >> 20)?;
        }
        match self.utilization {
            Some(percent) => write!(f, ", GPU {percent} % busy"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let speed = Speed {
            tokens: 1234.4,
            supervised: 56.7,
            memory: Some((3 << 20, 5 << 20)),
            utilization: Some(97),
        };
        assert_eq!(speed.to_string(), "1234 tokens/s (57 trained), 3 MiB (peak 5), GPU 97 % busy");
        let speed = Speed { memory: None, utilization: None, ..speed };
        assert_eq!(speed.to_string(), "1234 tokens/s (57 trained)");
    }

    #[test]
    fn the_host_has_no_gpu_to_be_busy() {
        let step =
            StepReport { number: 1, loss: 1.0, grad_norm: 1.0, learning_rate: 1.0, tokens: 9, supervised: 4 };
        let mut pace = Pace::new(&Device::Cpu);
        let speed = pace.step(&step);
        assert!(speed.utilization.is_none() && speed.tokens > speed.supervised);
    }
}
