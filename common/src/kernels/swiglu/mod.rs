//! SwiGLU (Shazeer 2020): `h = silu(gate) · up`, with gate and up side by side in one matrix.

mod cpu;
pub(super) mod cuda;

use crate::device::Tensor;
use crate::{Result, error};

/// h [T, F] from gate_up [T, 2F], whose rows hold gate then up.
pub fn forward(gate_up: &Tensor) -> Result<Tensor> {
    let (t, f) = halves(gate_up)?;
    match gate_up {
        Tensor::Cpu(_) => Tensor::from_vec(cpu::forward(&gate_up.host()?, f), &[t, f]),
        Tensor::Cuda(gate_up) => cuda::forward(gate_up, f).map(Tensor::Cuda),
    }
}

/// dgate_up [T, 2F] from dh [T, F] and the forward's input; and h [T, F] once more, which costs nothing
/// beside it. On a GPU they are written over the inputs, where no other tensor shares those.
pub fn backward(dh: Tensor, gate_up: Tensor) -> Result<(Tensor, Tensor)> {
    let (t, f) = halves(&gate_up)?;
    dh.expect("swiglu backward: dh", &[t, f])?;
    match gate_up {
        Tensor::Cpu(_) => {
            let (dgate_up, h) = cpu::backward(&dh.host()?, &gate_up.host()?, f);
            Ok((Tensor::from_vec(dgate_up, gate_up.shape())?, Tensor::from_vec(h, dh.shape())?))
        }
        Tensor::Cuda(gate_up) => {
            let (dgate_up, h) = cuda::backward(dh.into_gpu()?, gate_up, f)?;
            Ok((Tensor::Cuda(dgate_up), Tensor::Cuda(h)))
        }
    }
}

fn halves(gate_up: &Tensor) -> Result<(usize, usize)> {
    match gate_up.matrix("swiglu: gate_up")? {
        (t, columns) if columns % 2 == 0 && columns > 0 => Ok((t, columns / 2)),
        (_, columns) => Err(error!(Bug, "swiglu: an even number of columns expected, found {columns}")),
    }
}

#[cfg(test)]
mod tests;
