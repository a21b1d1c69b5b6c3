//! Losses that jump: a sign that a run goes wrong.

use std::collections::VecDeque;

/// The number of steps that a loss is compared with.
const WINDOW: usize = 16;
/// The standard deviations above the mean from which a loss is a jump.
const DEVIATIONS: f64 = 6.0;
/// The least jump, as a share of the mean.
const LEAST: f64 = 0.3;

/// Compares the loss of each step with those of the steps before.
#[derive(Debug, Default)]
pub struct LossWatch {
    recent: VecDeque<f64>,
}

impl LossWatch {
    /// Takes the loss of a step into account, and returns a warning if it is far above those of the steps
    /// before.
    pub fn check(&mut self, step: u64, loss: f64) -> Option<String> {
        let count = self.recent.len() as f64;
        let mean = self.recent.iter().sum::<f64>() / count;
        let variance = self.recent.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / count;
        let limit = mean + (DEVIATIONS * variance.sqrt()).max(LEAST * mean);
        let jumps = self.recent.len() == WINDOW && loss > limit;
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(loss);
        jumps.then(|| {
            format!("step {step}: the loss jumps to {loss:.4}, from {mean:.4} over the {WINDOW} steps before")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_told_from_noise_and_from_a_slow_rise() {
        let noise = |step: u64| 2.0 + 0.2 * ((step * 7 % 5) as f64 - 2.0);
        let mut watch = LossWatch::default();
        for step in 0..100 {
            assert_eq!(watch.check(step, noise(step) + 0.02 * step as f64), None, "step {step}");
        }
        let warning = watch.check(100, 9.0).unwrap();
        assert!(warning.contains("step 100: the loss jumps to 9.0000"), "{warning}");
        let mut watch = LossWatch::default();
        assert_eq!(watch.check(1, 50.0), None, "nothing to compare with");
    }
}
