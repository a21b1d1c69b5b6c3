//! What training minimizes: a function of the log-probabilities that a model gives to the targets of a pass.

use crate::Result;

/// The loss of a pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// Summed over the supervised tokens.
    pub sum: f64,
    /// Number of supervised tokens.
    pub tokens: usize,
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.tokens += other.tokens;
    }
}

impl Loss {
    /// The mean over supervised tokens.
    pub fn mean(self) -> f64 {
        self.sum / self.tokens as f64
    }
}

/// A loss of the rows of a pass, of which each has one target. What it is differentiated by is the
/// cross-entropy of each row, −log p(target).
pub trait Objective {
    /// The derivative by the cross-entropy of every row, where it is the same for all whatever they are: the
    /// head then makes the logits once.
    fn equal_weight(&self) -> Option<f32> {
        None
    }

    /// The loss, and its derivative by the cross-entropy of each row, from the log-probabilities of all
    /// targets, in the order of [`super::Batch::targets`]. Not called where there is an equal weight.
    fn loss(&self, log_probabilities: &[f64]) -> Result<(f64, Vec<f32>)>;
}

/// Supervised fine-tuning: the sum of all rows' cross-entropies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Supervised {
    /// What gradients are multiplied with; the loss is not.
    pub scale: f32,
}

impl Objective for Supervised {
    fn equal_weight(&self) -> Option<f32> {
        Some(self.scale)
    }

    fn loss(&self, log_probabilities: &[f64]) -> Result<(f64, Vec<f32>)> {
        let sum = log_probabilities.iter().map(|log_probability| -log_probability).sum();
        Ok((sum, vec![self.scale; log_probabilities.len()]))
    }
}
