//! Signs that a run goes wrong: tensors that cannot learn, and losses that jump.

use std::collections::{BTreeSet, VecDeque};

use common::model::AdapterTensor;
use common::{Result, error};

/// Steps that a loss is compared with.
const WINDOW: usize = 16;
/// Standard deviations above their mean from which a loss is a jump.
const DEVIATIONS: f64 = 6.0;
/// The least jump, as a share of the mean.
const LEAST: f64 = 0.3;

/// Watches a run.
#[derive(Debug, Default)]
pub struct Health {
    /// Whether every tensor has been seen to have a gradient.
    all_learn: bool,
    /// Tensors that had none in a step that moved the others.
    without: BTreeSet<String>,
    recent: VecDeque<f64>,
}

impl Health {
    /// Whether [`Health::check_gradients`] still has something to look at.
    pub fn wants_gradients(&self) -> bool {
        !self.all_learn
    }

    /// Fails where a trainable tensor gets no gradient, so that it would never learn. A's gradient is
    /// B times something, so that A is looked at once its B is no longer zero, as it is when a run
    /// begins. In a block whose last layer is zero, as blocks begin that a model is grown by, the other
    /// layers get a gradient only once that one has moved, so that it takes a second step to judge.
    /// `values` and `gradients` are those of all `tensors`; `moves` says whether the step changes them.
    pub fn check_gradients(
        &mut self,
        tensors: &[AdapterTensor],
        values: &[f32],
        gradients: &[f32],
        moves: bool,
    ) -> Result<()> {
        let is_zero =
            |of: &[f32], tensor: &AdapterTensor| of[tensor.range.clone()].iter().all(|&value| value == 0.0);
        let mut all_seen = true;
        for tensor in tensors {
            if let Some(module) = tensor.name.strip_suffix(".lora_A.weight") {
                let b = format!("{module}.lora_B.weight");
                if tensors.iter().find(|other| other.name == b).is_some_and(|b| is_zero(values, b)) {
                    all_seen = false;
                    continue;
                }
            }
            if is_zero(gradients, tensor) {
                all_seen = false;
                if !self.without.contains(&tensor.name) {
                    if moves {
                        self.without.insert(tensor.name.clone());
                    }
                    continue;
                }
                return Err(error!("the gradient of {} is zero: it would never learn", tensor.name).hint(
                    "is there a weight of zeros in the model? leave the layer out with --lora-target, or mend the model",
                ));
            }
        }
        self.all_learn = all_seen;
        Ok(())
    }

    /// A warning where the loss of a step is far above those of the steps before.
    pub fn check_loss(&mut self, step: u64, loss: f64) -> Option<String> {
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

    fn tensors() -> Vec<AdapterTensor> {
        let tensor = |name: &str, range: std::ops::Range<usize>| AdapterTensor {
            name: format!("q_proj.{name}.weight"),
            shape: [1, 2],
            range,
        };
        vec![tensor("lora_A", 0..2), tensor("lora_B", 2..4)]
    }

    #[test]
    fn a_is_looked_at_once_b_has_moved() {
        let mut health = Health::default();
        let mut check = |values: &[f32], gradients: &[f32], moves| {
            let checked = health.check_gradients(&tensors(), values, gradients, moves);
            (checked.map_err(|error| error.to_string()), health.wants_gradients())
        };
        let (begun, moved) = ([1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.1, 0.0]);
        assert_eq!(check(&begun, &[0.0, 0.0, 1.0, 0.0], true), (Ok(()), true));
        assert_eq!(check(&moved, &[0.0, 0.0, 1.0, 0.0], true), (Ok(()), true), "once is no proof");
        let (error, _) = check(&moved, &[0.0, 0.0, 1.0, 0.0], true);
        assert!(error.unwrap_err().contains("q_proj.lora_A.weight"));
        assert_eq!(check(&moved, &[1.0, 0.0, 0.0, 1.0], true), (Ok(()), false));
    }

    #[test]
    fn what_has_no_gradient_is_judged_by_the_second_step_that_moves_the_others() {
        let mut health = Health::default();
        let mut check = |moves| health.check_gradients(&tensors(), &[1.0, 1.0, 0.0, 0.0], &[0.0; 4], moves);
        for moves in [false, false, true] {
            check(moves).unwrap();
        }
        let error = check(true).unwrap_err();
        assert!(error.to_string().contains("q_proj.lora_B.weight"), "{error}");
    }

    #[test]
    fn a_jump_is_told_from_noise_and_from_a_slow_rise() {
        let noise = |step: u64| 2.0 + 0.2 * ((step * 7 % 5) as f64 - 2.0);
        let mut health = Health::default();
        for step in 0..100 {
            assert_eq!(health.check_loss(step, noise(step) + 0.02 * step as f64), None, "step {step}");
        }
        let warning = health.check_loss(100, 9.0).unwrap();
        assert!(warning.contains("step 100: the loss jumps to 9.0000"), "{warning}");
        let mut health = Health::default();
        assert_eq!(health.check_loss(1, 50.0), None, "nothing to compare with");
    }
}
