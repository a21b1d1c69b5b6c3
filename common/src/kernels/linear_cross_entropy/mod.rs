//! The projection to the vocabulary and cross-entropy against target tokens in one op, in chunks of
//! rows, so that the logits of a pass never exist whole.

mod cpu;
pub(super) mod cuda;

pub use super::cross_entropy::RowWeights;
pub(crate) use cuda::chunk_rows;

use super::linear::Linear;
use crate::device::Tensor;
use crate::device::cuda::Gpu;
use crate::{Result, error};

use std::sync::Arc;

use cudarc::driver::CudaSlice;

/// The losses of rows, which a GPU may still be computing.
pub enum Losses {
    /// The loss of each row, in the chunks that they were computed in.
    Cpu(Vec<Vec<f64>>),
    /// The GPU that computes the losses, the loss of each row on it, and the number of rows.
    Cuda(Arc<Gpu>, CudaSlice<f32>, usize),
}

impl Losses {
    /// The sum of the losses, in the order of the rows.
    pub fn sum(self) -> Result<f64> {
        match self {
            // The chunks' sums are added up: the order that results have had from the beginning.
            Self::Cpu(chunks) => Ok(chunks.iter().map(|losses| losses.iter().sum::<f64>()).sum()),
            Self::Cuda(gpu, losses, rows) => {
                Ok(gpu.download(&losses, rows)?.into_iter().map(f64::from).sum())
            }
        }
    }

    /// The losses, in the order of the rows.
    pub fn to_vec(self) -> Result<Vec<f64>> {
        match self {
            Self::Cpu(chunks) => Ok(chunks.concat()),
            Self::Cuda(gpu, losses, rows) => {
                Ok(gpu.download(&losses, rows)?.into_iter().map(f64::from).collect())
            }
        }
    }
}

/// `−log softmax(x·Wᵀ)[target]` of rows x `[n, C]` for W `[V, C]` and targets `[n]`.
pub fn forward(x: &Tensor, head: &Linear, targets: &[u32], softcap: Option<f32>) -> Result<Losses> {
    check(x, head, targets)?;
    match x {
        Tensor::Cpu(_) => Ok(Losses::Cpu(cpu::forward(&x.host()?, head, targets, softcap)?)),
        Tensor::Cuda(x) => Ok(cuda::run(x, head, targets, None, softcap)?.0),
    }
}

/// As [`forward`], and dx [n, C] of the sum of the losses, each times its weight.
pub fn forward_backward(
    x: &Tensor,
    head: &Linear,
    targets: &[u32],
    weights: RowWeights,
    softcap: Option<f32>,
) -> Result<(Losses, Tensor)> {
    check(x, head, targets)?;
    weights.check(targets.len())?;
    match x {
        Tensor::Cpu(_) => {
            let (losses, dx) = cpu::forward_backward(&x.host()?, head, targets, weights, softcap)?;
            Ok((Losses::Cpu(losses), Tensor::from_vec(dx, x.shape())?))
        }
        Tensor::Cuda(x) => match cuda::run(x, head, targets, Some(weights), softcap)? {
            (losses, Some(dx)) => Ok((losses, Tensor::Cuda(dx))),
            (_, None) => Err(error!(Bug, "cross-entropy: a gradient that was asked for is missing")),
        },
    }
}

fn check(x: &Tensor, head: &Linear, targets: &[u32]) -> Result<()> {
    x.expect("cross-entropy: x", &[targets.len(), head.inputs()])?;
    if head.outputs() == 0 || head.inputs() == 0 {
        return Err(error!(Bug, "cross-entropy: an empty head, [{}, {}]", head.outputs(), head.inputs()));
    }
    match targets.iter().find(|&&target| target as usize >= head.outputs()) {
        Some(target) => Err(error!(
            Mismatch,
            "cross-entropy: token {target} is outside the vocabulary of {}",
            head.outputs()
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
