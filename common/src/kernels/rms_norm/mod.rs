//! Root mean square normalization (Zhang and Sennrich 2019): `y = x / rms(x) · weight` over the
//! last dimension, `rms(x) = sqrt(mean(x²) + eps)`. The weight is frozen and gets no gradient.

mod cpu;
pub(super) mod cuda;

use crate::device::{Tensor, Vector};
use crate::{Result, error};

/// y [T, C] from x [T, C] and weight [C].
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

/// Normalizes each head of `d` columns on its own (Qwen3): head i of x [T, width] by row i of
/// `weights` [heads, d]; the columns after the last of them are copied.
pub fn forward_heads(x: &Tensor, weights: &Vector, d: usize, eps: f32) -> Result<Tensor> {
    let (_, width) = x.matrix("rms_norm of heads: x")?;
    check_heads(weights, d, width)?;
    match x {
        Tensor::Cpu(_) => {
            let weights: Vec<&[f32]> = weights.host()?.chunks_exact(d).collect();
            Tensor::from_vec(cpu::forward_heads(&x.host()?, width, &weights, eps), x.shape())
        }
        Tensor::Cuda(x) => cuda::forward_heads(x, weights.gpu()?, d, eps).map(Tensor::Cuda),
    }
}

/// dx from dy and the inputs of [`forward_heads`].
pub fn backward_heads(dy: &Tensor, x: &Tensor, weights: &Vector, d: usize, eps: f32) -> Result<Tensor> {
    let (_, width) = x.matrix("rms_norm of heads backward: x")?;
    check_heads(weights, d, width)?;
    dy.expect("rms_norm of heads backward: dy", x.shape())?;
    match x {
        Tensor::Cpu(_) => {
            let weights: Vec<&[f32]> = weights.host()?.chunks_exact(d).collect();
            let dx = cpu::backward_heads(&dy.host()?, &x.host()?, width, &weights, eps);
            Tensor::from_vec(dx, x.shape())
        }
        Tensor::Cuda(x) => cuda::backward_heads(dy.gpu()?, x, weights.gpu()?, d, eps).map(Tensor::Cuda),
    }
}

fn check_weight(weight: &Vector, c: usize) -> Result<()> {
    if weight.len() == c && c > 0 {
        Ok(())
    } else {
        Err(error!(Bug, "rms_norm: weight [{c}] expected, found [{}]", weight.len()))
    }
}

fn check_heads(weights: &Vector, d: usize, width: usize) -> Result<()> {
    if d == 0 || weights.is_empty() || !weights.len().is_multiple_of(d) || weights.len() > width {
        return Err(error!(
            Bug,
            "rms_norm of heads: heads of {d} within {width} expected, found [{}]",
            weights.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
