//! Gated linear units (Shazeer 2020): `h = activation(gate) · up`, with gate and up side by side in one matrix.

mod cpu;
pub(super) mod cuda;
mod weighted;

use crate::device::Tensor;
use crate::{Result, error};

pub use weighted::{WeightedBackward, backward_weighted, forward_weighted};

/// The activation of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x): SwiGLU.
    Silu,
    /// ½x · (1 + tanh(√(2/π) · (x + 0.044715x³))): GeGLU, as transformers' `gelu_pytorch_tanh`.
    GeluTanh,
}

/// h [T, F] from gate_up [T, 2F], whose rows hold gate then up.
pub fn forward(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    let (t, f) = halves(gate_up)?;
    match gate_up {
        Tensor::Cpu(_) => Tensor::from_vec(cpu::forward(&gate_up.host()?, f, activation), &[t, f]),
        Tensor::Cuda(gate_up) => cuda::forward(gate_up, f, activation).map(Tensor::Cuda),
    }
}

/// dgate_up [T, 2F] from dh [T, F] and the forward's input; and h [T, F] once more, which costs nothing
/// beside it. On a GPU they are written over the inputs, where no other tensor shares those.
pub fn backward(dh: Tensor, gate_up: Tensor, activation: Activation) -> Result<(Tensor, Tensor)> {
    let (t, f) = halves(&gate_up)?;
    dh.expect("glu backward: dh", &[t, f])?;
    match gate_up {
        Tensor::Cpu(_) => {
            let (dgate_up, h) = cpu::backward(&dh.host()?, &gate_up.host()?, f, activation);
            Ok((Tensor::from_vec(dgate_up, gate_up.shape())?, Tensor::from_vec(h, dh.shape())?))
        }
        Tensor::Cuda(gate_up) => {
            let (dgate_up, h) = cuda::backward(dh.into_gpu()?, gate_up, f, activation)?;
            Ok((Tensor::Cuda(dgate_up), Tensor::Cuda(h)))
        }
    }
}

fn halves(gate_up: &Tensor) -> Result<(usize, usize)> {
    match gate_up.matrix("glu: gate_up")? {
        (t, columns) if columns % 2 == 0 && columns > 0 => Ok((t, columns / 2)),
        (_, columns) => Err(error!(Bug, "glu: an even number of columns expected, found {columns}")),
    }
}

#[cfg(test)]
mod tests;
