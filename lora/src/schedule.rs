//! Learning rates over a run, as transformers' schedulers give them.

use clap::ValueEnum;
use serde::Serialize;

/// How the learning rate falls after its warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum SchedulerType {
    /// In a straight line to 0.
    Linear,
    /// Along half a cosine to 0.
    Cosine,
    /// Not at all.
    Constant,
}

/// The learning rate of every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// How it falls.
    pub kind: SchedulerType,
    /// The highest rate.
    pub peak: f64,
    /// Steps in which it rises from 0.
    pub warmup: u64,
    /// All steps.
    pub total: u64,
}

impl Schedule {
    /// The rate of step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let falling = self.total.saturating_sub(self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / falling).min(1.0);
        self.peak
            * match self.kind {
                SchedulerType::Constant => 1.0,
                SchedulerType::Linear => 1.0 - progress,
                SchedulerType::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `transformers.get_scheduler(NAME, optimizer, 2, 10)` with a rate of 1, steps 0, 1, 2, 6, 9.
    #[test]
    fn rates_are_transformers() {
        let expected = [
            (SchedulerType::Linear, [0.0, 0.5, 1.0, 0.5, 0.125]),
            (SchedulerType::Cosine, [0.0, 0.5, 1.0, 0.5, 0.038_060_233_744_356_62]),
            (SchedulerType::Constant, [0.0, 0.5, 1.0, 1.0, 1.0]),
        ];
        for (kind, rates) in expected {
            let schedule = Schedule { kind, peak: 1.0, warmup: 2, total: 10 };
            for (step, rate) in [0, 1, 2, 6, 9].into_iter().zip(rates) {
                assert!((schedule.rate(step) - rate).abs() < 1e-12, "{kind:?} at {step}");
            }
        }
    }
}
