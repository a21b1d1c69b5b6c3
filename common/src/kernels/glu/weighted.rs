//! The gated linear units of a mixture's experts: each row of h is multiplied with the weight that its expert has
//! in its token, `h = weight · activation(gate) · up`. The product after it is linear, so that this weighs what the
//! expert makes of the row, and the backward needs nothing of that product's output.

use super::{Activation, cpu, cuda, halves};
use crate::device::{Tensor, Vector};
use crate::{Result, error};

/// h [S, F] from gate_up [S, 2F], whose rows hold gate then up, and the weight of each row, `[S]`.
pub fn forward_weighted(gate_up: &Tensor, activation: Activation, weights: &Vector) -> Result<Tensor> {
    let (rows, f) = halves(gate_up)?;
    expect_rows(weights, rows)?;
    match gate_up {
        Tensor::Cpu(_) => {
            let mut h = cpu::forward(&gate_up.host()?, f, activation);
            weigh(&mut h, weights.host()?, f);
            Tensor::from_vec(h, &[rows, f])
        }
        Tensor::Cuda(gate_up) => {
            cuda::forward_weighted(gate_up, f, activation, weights.gpu()?).map(Tensor::Cuda)
        }
    }
}

/// What the backward gives.
pub struct WeightedBackward {
    /// The gradient of the forward's input, [S, 2F].
    pub dgate_up: Tensor,
    /// h [S, F] once more, which costs nothing beside the gradients.
    pub h: Tensor,
    /// The gradients of the weights, `[S]`.
    pub dweights: Vector,
}

/// The gradients from dh [S, F] and the forward's inputs. On a GPU matrices are written over the inputs, where no
/// other tensor shares those.
pub fn backward_weighted(
    dh: Tensor,
    gate_up: Tensor,
    activation: Activation,
    weights: &Vector,
) -> Result<WeightedBackward> {
    let (rows, f) = halves(&gate_up)?;
    dh.expect("glu backward: dh", &[rows, f])?;
    expect_rows(weights, rows)?;
    match gate_up {
        Tensor::Cpu(_) => {
            let mut weighted = dh.to_vec()?;
            weigh(&mut weighted, weights.host()?, f);
            let (dgate_up, mut h) = cpu::backward(&weighted, &gate_up.host()?, f, activation);
            let dh_rows = dh.host()?;
            let dot = |(dh, h): (&[f32], &[f32])| dh.iter().zip(h).map(|(dh, h)| dh * h).sum();
            let dweights = dh_rows.chunks(f).zip(h.chunks(f)).map(dot).collect();
            weigh(&mut h, weights.host()?, f);
            Ok(WeightedBackward {
                dgate_up: Tensor::from_vec(dgate_up, gate_up.shape())?,
                h: Tensor::from_vec(h, dh.shape())?,
                dweights: Vector::Cpu(dweights),
            })
        }
        Tensor::Cuda(gate_up) => {
            let (dgate_up, h, dweights) =
                cuda::backward_weighted(dh.into_gpu()?, gate_up, f, activation, weights.gpu()?)?;
            Ok(WeightedBackward { dgate_up: Tensor::Cuda(dgate_up), h: Tensor::Cuda(h), dweights })
        }
    }
}

/// Multiplies each row of h with its weight.
fn weigh(h: &mut [f32], weights: &[f32], f: usize) {
    for (row, weight) in h.chunks_mut(f).zip(weights) {
        row.iter_mut().for_each(|value| *value *= weight);
    }
}

fn expect_rows(weights: &Vector, rows: usize) -> Result<()> {
    match weights.len() == rows {
        true => Ok(()),
        false => Err(error!(Bug, "glu: a weight for each of {rows} rows expected, found {}", weights.len())),
    }
}
