//! The language-model head: final norm, projection to the vocabulary and cross-entropy, on chosen rows only.

use super::Objective;
use crate::Result;
use crate::device::{HostValues, Tensor, Vector};
use crate::kernels::linear::{self, Linear};
use crate::kernels::linear_cross_entropy::{self, Losses, RowWeights};
use crate::kernels::{cross_entropy, rms_norm};

/// The last norm and the projection to the vocabulary.
pub(super) struct Head {
    /// [C]
    pub norm: Vector,
    /// [V, C]; the embedding table where the head is tied.
    pub projection: Linear,
    /// Logits become c·tanh(logits / c), where there is such a c.
    pub softcap: Option<f32>,
    /// Added to the mean of squares in the norm.
    pub epsilon: f32,
}

/// A loss that a GPU may still be computing.
pub(super) enum PendingLoss {
    /// The sum of these.
    Rows(Losses),
    /// The loss.
    Known(f64),
}

impl PendingLoss {
    /// Waits for the loss.
    pub(super) fn value(self) -> Result<f64> {
        match self {
            Self::Rows(losses) => losses.sum(),
            Self::Known(loss) => Ok(loss),
        }
    }
}

impl Head {
    /// Logits [n, V] of rows x [n, C].
    pub(super) fn logits(&self, x: &Tensor) -> Result<HostValues> {
        if x.shape()[0] == 0 {
            return Ok(HostValues::Owned(Vec::new()));
        }
        let normed = rms_norm::forward(x, &self.norm, self.epsilon)?;
        let mut logits = linear::project(&normed, &self.projection)?;
        if let Some(softcap) = self.softcap {
            cross_entropy::cap(&mut logits, softcap);
        }
        Ok(logits)
    }

    /// The cross-entropies of rows x [n, C] and their targets [n].
    pub(super) fn cross_entropy(&self, x: &Tensor, targets: &[u32]) -> Result<Losses> {
        let normed = rms_norm::forward(x, &self.norm, self.epsilon)?;
        self.cross_entropy_of(&normed, targets)
    }

    fn cross_entropy_of(&self, normed: &Tensor, targets: &[u32]) -> Result<Losses> {
        linear_cross_entropy::forward(normed, &self.projection, targets, self.softcap)
    }

    /// The objective's loss of rows x [n, C], and its gradient dx [n, C]. An objective that must see the
    /// log-probabilities first has the logits made twice; they never exist whole.
    pub(super) fn loss_and_gradient(
        &self,
        x: &Tensor,
        targets: &[u32],
        objective: &dyn Objective,
    ) -> Result<(PendingLoss, Tensor)> {
        let normed = rms_norm::forward(x, &self.norm, self.epsilon)?;
        let gradient = |weights: RowWeights| {
            linear_cross_entropy::forward_backward(&normed, &self.projection, targets, weights, self.softcap)
        };
        let (loss, dnormed) = match objective.equal_weight() {
            Some(weight) => {
                let (losses, dnormed) = gradient(RowWeights::Equal(weight))?;
                (PendingLoss::Rows(losses), dnormed)
            }
            None => {
                let losses = self.cross_entropy_of(&normed, targets)?.to_vec()?;
                let log_probabilities: Vec<f64> = losses.iter().map(|loss| -loss).collect();
                let (loss, weights) = objective.loss(&log_probabilities)?;
                let (_, dnormed) = gradient(RowWeights::Each(&weights))?;
                (PendingLoss::Known(loss), dnormed)
            }
        };
        let (dx, _) = rms_norm::backward(&dnormed, x, &self.norm, None, self.epsilon)?;
        Ok((loss, dx))
    }
}
