//! Root mean square normalization (Zhang and Sennrich 2019): `y = x / rms(x) · weight` over the
//! last dimension, `rms(x) = sqrt(mean(x²) + eps)`. The weight is frozen and gets no gradient.

mod cpu;
pub(super) mod cuda;

use crate::device::{Tensor, Vector};
use crate::{Result, error};

/// y `[T, C]` from x `[T, C]` and weight `[C]`.
pub fn forward(x: &Tensor, weight: &Vector, eps: f32) -> Result<Tensor> {
    let (_, c) = x.matrix("rms_norm: x")?;
    check_weight(weight, c)?;
    match x {
        Tensor::Cpu(_) => Tensor::from_vec(cpu::forward(&x.host()?, weight.host()?, eps), x.shape()),
        Tensor::Cuda(x) => cuda::forward(x, weight.gpu()?, eps).map(Tensor::Cuda),
    }
}

/// dx [T, C] from dy [T, C] and the forward's inputs; plus `residual` [T, C], the gradient that goes
/// around the norm, where there is one. And y [T, C] once more, which costs nothing beside it.
pub fn backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Vector,
    residual: Option<&Tensor>,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    let (_, c) = x.matrix("rms_norm backward: x")?;
    check_weight(weight, c)?;
    dy.expect("rms_norm backward: dy", x.shape())?;
    residual.map_or(Ok(()), |residual| residual.expect("rms_norm backward: residual", x.shape()))?;
    match x {
        Tensor::Cpu(_) => {
            let dx = cpu::backward(&dy.host()?, &x.host()?, weight.host()?, eps);
            let dx = Tensor::from_vec(dx, x.shape())?;
            let dx = residual.map_or(Ok(dx.clone()), |residual| residual.add(&dx))?;
            let y = cpu::forward(&x.host()?, weight.host()?, eps);
            Ok((dx, Tensor::from_vec(y, x.shape())?))
        }
        Tensor::Cuda(x) => {
            let residual = residual.map(Tensor::gpu).transpose()?;
            let (dx, y) = cuda::backward(dy.gpu()?, x, weight.gpu()?, residual, eps)?;
            Ok((Tensor::Cuda(dx), Tensor::Cuda(y)))
        }
    }
}

/// Norms of the first columns of a row, head by head: `heads[0].0` heads of `heads[0].1` columns, then
/// `heads[1].0` heads of `heads[1].1`. Queries and keys may be normalized each head on its own (Qwen3), or all
/// together as a head (OLMo 2).
pub struct HeadNorms {
    weights: Vector,
    heads: [(usize, usize); 2],
}

impl HeadNorms {
    /// Norms with these weights, one head's after the other's.
    pub fn new(weights: Vector, heads: [(usize, usize); 2]) -> Result<Self> {
        let len = heads.iter().map(|(count, size)| count * size).sum::<usize>();
        match weights.len() == len && heads.iter().all(|(count, size)| count * size > 0) {
            true => Ok(Self { weights, heads }),
            false => Err(error!(
                Bug,
                "rms_norm of heads: weights of {heads:?} expected, found [{}]",
                weights.len()
            )),
        }
    }

    /// The weights of all heads.
    pub fn weights(&self) -> &Vector {
        &self.weights
    }

    /// Columns that are normalized.
    fn columns(&self) -> usize {
        self.weights.len()
    }

    fn check(&self, width: usize) -> Result<()> {
        match self.columns() <= width {
            true => Ok(()),
            false => Err(error!(Bug, "rms_norm of heads: {:?} within {width} columns expected", self.heads)),
        }
    }

    /// The weight of each head, on the host.
    fn of_heads(&self) -> Result<Vec<&[f32]>> {
        let (mut rest, mut weights) = (self.weights.host()?, Vec::new());
        for (count, size) in self.heads {
            let (own, others) = rest.split_at(count * size);
            weights.extend(own.chunks_exact(size));
            rest = others;
        }
        Ok(weights)
    }
}

/// Normalizes each head of x [T, width] on its own; the columns after the last of them are copied.
pub fn forward_heads(x: &Tensor, norms: &HeadNorms, eps: f32) -> Result<Tensor> {
    let (_, width) = x.matrix("rms_norm of heads: x")?;
    norms.check(width)?;
    match x {
        Tensor::Cpu(_) => {
            Tensor::from_vec(cpu::forward_heads(&x.host()?, width, &norms.of_heads()?, eps), x.shape())
        }
        Tensor::Cuda(x) => cuda::forward_heads(x, norms, eps).map(Tensor::Cuda),
    }
}

/// dx from dy and the inputs of [`forward_heads`].
pub fn backward_heads(dy: &Tensor, x: &Tensor, norms: &HeadNorms, eps: f32) -> Result<Tensor> {
    let (_, width) = x.matrix("rms_norm of heads backward: x")?;
    norms.check(width)?;
    dy.expect("rms_norm of heads backward: dy", x.shape())?;
    match x {
        Tensor::Cpu(_) => {
            let dx = cpu::backward_heads(&dy.host()?, &x.host()?, width, &norms.of_heads()?, eps);
            Tensor::from_vec(dx, x.shape())
        }
        Tensor::Cuda(x) => cuda::backward_heads(dy.gpu()?, x, norms, eps).map(Tensor::Cuda),
    }
}

fn check_weight(weight: &Vector, c: usize) -> Result<()> {
    if weight.len() == c && c > 0 {
        Ok(())
    } else {
        Err(error!(Bug, "rms_norm: weight [{c}] expected, found [{}]", weight.len()))
    }
}

#[cfg(test)]
mod tests;
