//! The language-model head: final norm, projection to the vocabulary and cross-entropy, on chosen
//! rows only.

use crate::Result;
use crate::device::{Tensor, Vector};
use crate::kernels::linear::{self, Linear};
use crate::kernels::linear_cross_entropy::{self, Losses};
use crate::kernels::rms_norm;

/// The last norm and the projection to the vocabulary.
pub struct Head {
    /// [C]
    pub norm: Vector,
    /// [V, C]; the embedding table where the head is tied.
    pub projection: Linear,
    /// Added to the mean of squares in the norm.
    pub epsilon: f32,
}

impl Head {
    /// Logits [n, V] of rows x [n, C].
    pub fn logits(&self, x: &Tensor) -> Result<Vec<f32>> {
        if x.shape()[0] == 0 {
            return Ok(Vec::new());
        }
        linear::project(&rms_norm::forward(x, &self.norm, self.epsilon)?, &self.projection)
    }

    /// The losses of rows x [n, C] and their targets [n].
    pub fn loss(&self, x: &Tensor, targets: &[u32]) -> Result<Losses> {
        let normed = rms_norm::forward(x, &self.norm, self.epsilon)?;
        linear_cross_entropy::forward(&normed, &self.projection, targets)
    }

    /// The rows' losses, and dx [n, C] of `scale` times their sum.
    pub fn loss_and_gradient(&self, x: &Tensor, targets: &[u32], scale: f32) -> Result<(Losses, Tensor)> {
        let normed = rms_norm::forward(x, &self.norm, self.epsilon)?;
        let (losses, dnormed) =
            linear_cross_entropy::forward_backward(&normed, &self.projection, targets, scale)?;
        let (dx, _) = rms_norm::backward(&dnormed, x, &self.norm, None, self.epsilon)?;
        Ok((losses, dx))
    }
}
