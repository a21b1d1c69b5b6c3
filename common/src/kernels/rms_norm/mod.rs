//! Root mean square normalization (Zhang and Sennrich 2019): `y = x / rms(x) · weight` over the
//! last dimension, `rms(x) = sqrt(mean(x²) + eps)`. The weight is frozen and gets no gradient.

mod cpu;

use crate::device::Tensor;
use crate::{Result, error};

/// y [T, C] from x [T, C] and weight [C].
pub fn forward(x: &Tensor, weight: &[f32], eps: f32) -> Result<Tensor> {
    let (_, c) = x.matrix("rms_norm: x")?;
    check_weight(weight, c)?;
    match x {
        Tensor::Cpu(_) => Tensor::from_vec(cpu::forward(&x.host()?, weight, eps), x.shape()),
    }
}

/// dx [T, C] from dy [T, C] and the forward's inputs.
pub fn backward(dy: &Tensor, x: &Tensor, weight: &[f32], eps: f32) -> Result<Tensor> {
    let (_, c) = x.matrix("rms_norm backward: x")?;
    check_weight(weight, c)?;
    dy.expect("rms_norm backward: dy", x.shape())?;
    match x {
        Tensor::Cpu(_) => Tensor::from_vec(cpu::backward(&dy.host()?, &x.host()?, weight, eps), x.shape()),
    }
}

/// Normalizes each head on its own (Qwen3): head i of x [T, ≥ weights.len()·D] by `weights[i]` [D];
/// the columns behind the last of them are copied.
pub fn forward_heads(x: &Tensor, weights: &[&[f32]], eps: f32) -> Result<Tensor> {
    let (_, width) = x.matrix("rms_norm of heads: x")?;
    check_heads(weights, width)?;
    match x {
        Tensor::Cpu(_) => Tensor::from_vec(cpu::forward_heads(&x.host()?, width, weights, eps), x.shape()),
    }
}

/// dx from dy and the inputs of [`forward_heads`].
pub fn backward_heads(dy: &Tensor, x: &Tensor, weights: &[&[f32]], eps: f32) -> Result<Tensor> {
    let (_, width) = x.matrix("rms_norm of heads backward: x")?;
    check_heads(weights, width)?;
    dy.expect("rms_norm of heads backward: dy", x.shape())?;
    match x {
        Tensor::Cpu(_) => {
            let dx = cpu::backward_heads(&dy.host()?, &x.host()?, width, weights, eps);
            Tensor::from_vec(dx, x.shape())
        }
    }
}

fn check_weight(weight: &[f32], c: usize) -> Result<()> {
    if weight.len() == c && c > 0 {
        Ok(())
    } else {
        Err(error!("rms_norm: weight [{c}] expected, found [{}]", weight.len()))
    }
}

fn check_heads(weights: &[&[f32]], width: usize) -> Result<()> {
    let Some(first) = weights.first().filter(|first| !first.is_empty()) else {
        return Err(error!("rms_norm of heads: at least one weight expected"));
    };
    if weights.iter().any(|weight| weight.len() != first.len()) || weights.len() * first.len() > width {
        return Err(error!("rms_norm of heads: {} heads of {} exceed {width}", weights.len(), first.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
