//! Tensors that cannot learn, found by their gradients in the first steps of a run.

use std::collections::BTreeSet;

use common::model::AdapterTensor;
use common::{Result, error};

/// Looks for trainable tensors without a gradient until every tensor has had one.
#[derive(Debug, Default)]
pub struct GradientCheck {
    /// Whether every tensor has had a gradient.
    all_learn: bool,
    /// The tensors that had none in a step that moved the others.
    without: BTreeSet<String>,
}

impl GradientCheck {
    /// Whether [`GradientCheck::check`] is still needed.
    pub fn is_needed(&self) -> bool {
        !self.all_learn
    }

    /// Fails where a trainable tensor gets no gradient, so that it would never learn. `values` and `gradients`
    /// are those of all `tensors`; `moves` says whether the step changes the values.
    ///
    /// The gradient of A is a product with B, which is zero when a run begins; so an A is looked at once its
    /// B is not zero. A tensor fails in its second step without a gradient only: in a block whose last layer
    /// is zero, as in blocks that a model was grown by, the other layers get a gradient once that layer has
    /// moved.
    pub fn check(
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
        let mut checked = GradientCheck::default();
        let mut check = |values: &[f32], gradients: &[f32], moves| {
            let found = checked.check(&tensors(), values, gradients, moves);
            (found.map_err(|error| error.to_string()), checked.is_needed())
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
        let mut checked = GradientCheck::default();
        let mut check = |moves| checked.check(&tensors(), &[1.0, 1.0, 0.0, 0.0], &[0.0; 4], moves);
        for moves in [false, false, true] {
            check(moves).unwrap();
        }
        let error = check(true).unwrap_err();
        assert!(error.to_string().contains("q_proj.lora_B.weight"), "{error}");
    }
}
