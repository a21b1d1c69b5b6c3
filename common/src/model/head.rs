//! The language-model head: final norm, projection to the vocabulary and cross-entropy, on chosen
//! rows only and in chunks, so that the logits of a pass never exist whole.

use crate::Result;
use crate::device::Tensor;
use crate::kernels::linear::{self, Weight};
use crate::kernels::{cross_entropy, rms_norm};

/// Logits that exist at a time: 64 MiB of f32.
const CHUNK_LOGITS: usize = 1 << 24;

/// The last norm and the projection to the vocabulary.
pub struct Head {
    /// [C]
    pub norm: Vec<f32>,
    /// [V, C]; the embedding table where the head is tied.
    pub weight: Weight,
    /// Added to the mean of squares in the norm.
    pub epsilon: f32,
}

impl Head {
    /// Logits [n, V] of rows x [n, C].
    pub fn logits(&self, x: &Tensor) -> Result<Vec<f32>> {
        if x.shape()[0] == 0 {
            return Ok(Vec::new());
        }
        let normed = rms_norm::forward(x, &self.norm, self.epsilon)?;
        linear::project(&normed.host()?, x.shape()[0], &self.weight)
    }

    /// The sum of the rows' losses, for rows x [n, C] and their targets [n].
    pub fn loss(&self, x: &Tensor, targets: &[u32]) -> Result<f64> {
        let normed = rms_norm::forward(x, &self.norm, self.epsilon)?;
        let normed = normed.host()?;
        let [v, c] = self.weight.shape();
        let mut sum = 0.0;
        for (x, targets) in normed.chunks(chunk_rows(v) * c).zip(targets.chunks(chunk_rows(v))) {
            sum += cross_entropy::forward(&linear::project(x, targets.len(), &self.weight)?, v, targets)?;
        }
        Ok(sum)
    }

    /// The sum of the rows' losses, and dx [n, C] of `scale` times that sum.
    pub fn loss_and_gradient(&self, x: &Tensor, targets: &[u32], scale: f32) -> Result<(f64, Tensor)> {
        let normed = rms_norm::forward(x, &self.norm, self.epsilon)?;
        let [v, c] = self.weight.shape();
        let mut sum = 0.0;
        let mut dnormed = Vec::with_capacity(targets.len() * c);
        let values = normed.host()?;
        for (x, targets) in values.chunks(chunk_rows(v) * c).zip(targets.chunks(chunk_rows(v))) {
            let mut logits = linear::project(x, targets.len(), &self.weight)?;
            sum += cross_entropy::forward_backward(&mut logits, v, targets, scale)?;
            dnormed.extend(linear::project_backward(&logits, targets.len(), &self.weight)?);
        }
        let dnormed = Tensor::from_vec(dnormed, x.shape())?;
        Ok((sum, rms_norm::backward(&dnormed, x, &self.norm, self.epsilon)?))
    }
}

fn chunk_rows(vocabulary: usize) -> usize {
    (CHUNK_LOGITS / vocabulary).max(1)
}
