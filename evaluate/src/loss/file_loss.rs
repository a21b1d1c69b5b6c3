//! The loss of a model on a file.

use common::model::Loss;

/// The loss on a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FileLoss {
    /// The loss, summed over supervised tokens, and their number.
    pub loss: Loss,
    /// Number of examples that have supervised tokens.
    pub examples: usize,
}

impl FileLoss {
    /// Returns e to the mean loss.
    pub fn perplexity(&self) -> f64 {
        self.loss.mean().exp()
    }
}
