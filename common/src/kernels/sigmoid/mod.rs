//! The weight of an expert that every token goes to: the sigmoid of one logit a token.

pub(super) mod cuda;

use crate::device::{Tensor, Vector};
use crate::{Result, error};

/// The weights `[T]` from logits [T, 1].
pub fn forward(logits: &Tensor) -> Result<Vector> {
    let (tokens, _) = logits.matrix("sigmoid: logits")?;
    logits.expect("sigmoid: logits", &[tokens, 1])?;
    match logits {
        Tensor::Cpu(_) => {
            let weights = logits.host()?.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect();
            Ok(Vector::Cpu(weights))
        }
        Tensor::Cuda(logits) => cuda::forward(logits, tokens),
    }
}

/// The gradients of the logits [T, 1] from those of the weights and the weights, `[T]` each.
pub fn backward(dweights: &Vector, weights: &Vector) -> Result<Tensor> {
    if dweights.len() != weights.len() {
        return Err(error!(Bug, "sigmoid: {} gradients of {} weights", dweights.len(), weights.len()));
    }
    match weights {
        Vector::Cpu(weights) => {
            let slope = |(dweight, weight): (&f32, &f32)| dweight * weight * (1.0 - weight);
            let dlogits = dweights.host()?.iter().zip(weights).map(slope).collect();
            Tensor::from_vec(dlogits, &[weights.len(), 1])
        }
        Vector::Cuda(weights) => cuda::backward(dweights.gpu()?, weights).map(Tensor::Cuda),
    }
}
