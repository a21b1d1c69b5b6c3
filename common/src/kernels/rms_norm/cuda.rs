//! The norms on a GPU: a block of threads a row, or a warp a head.

use crate::device::GpuVector;
use crate::device::cuda::{Argument, GpuTensor, Grid, KernelSource};
use crate::{Result, error};

pub(in crate::kernels) static SOURCE: KernelSource =
    KernelSource::new("rms_norm", include_str!("rms_norm.cu"));

pub(super) fn forward(x: &GpuTensor, weight: &GpuVector, eps: f32) -> Result<GpuTensor> {
    let (t, c) = rows(x)?;
    let y = GpuTensor::new(x.gpu(), x.shape())?;
    let arguments = [(&y).into(), x.into(), weight.into(), (c as i32).into(), eps.into()];
    x.gpu().launch(&SOURCE, "rms_norm_forward", Grid::new(t, threads(c)), &arguments)?;
    Ok(y)
}

/// dx and y.
pub(super) fn backward(
    dy: &GpuTensor,
    x: &GpuTensor,
    weight: &GpuVector,
    residual: Option<&GpuTensor>,
    eps: f32,
) -> Result<(GpuTensor, GpuTensor)> {
    let (t, c) = rows(x)?;
    let (dx, y) = (GpuTensor::new(x.gpu(), x.shape())?, GpuTensor::new(x.gpu(), x.shape())?);
    let tensors = [&dx, &y, dy, x].map(Argument::from);
    let residual = Argument::address(residual.map(GpuTensor::address));
    let others = [weight.into(), residual, (c as i32).into(), eps.into()];
    let arguments = [&tensors[..], &others[..]].concat();
    x.gpu().launch(&SOURCE, "rms_norm_backward", Grid::new(t, threads(c)), &arguments)?;
    Ok((dx, y))
}

pub(super) fn forward_heads(x: &GpuTensor, weights: &GpuVector, d: usize, eps: f32) -> Result<GpuTensor> {
    let y = GpuTensor::new(x.gpu(), x.shape())?;
    let inputs = [(&y).into(), x.into(), weights.into()];
    launch_heads("rms_norm_heads_forward", &inputs, x, weights, d, eps)?;
    Ok(y)
}

pub(super) fn backward_heads(
    dy: &GpuTensor,
    x: &GpuTensor,
    weights: &GpuVector,
    d: usize,
    eps: f32,
) -> Result<GpuTensor> {
    let dx = GpuTensor::new(x.gpu(), x.shape())?;
    let inputs = [(&dx).into(), dy.into(), x.into(), weights.into()];
    launch_heads("rms_norm_heads_backward", &inputs, x, weights, d, eps)?;
    Ok(dx)
}

fn launch_heads(
    kernel: &'static str,
    inputs: &[Argument],
    x: &GpuTensor,
    weights: &GpuVector,
    d: usize,
    eps: f32,
) -> Result<()> {
    let (t, width) = (x.shape()[0], x.shape()[1]);
    if !width.is_multiple_of(d) {
        return Err(error!(Bug, "rms_norm of heads: whole heads of {d} expected, found {width} columns"));
    }
    let heads = (weights.len() / d) as i32;
    let sizes = [heads.into(), (d as i32).into(), (width as i32).into(), eps.into()];
    let grid = Grid { blocks: (t, width / d, 1), threads: 32, shared: 0 };
    x.gpu().launch(&SOURCE, kernel, grid, &[inputs, &sizes].concat())
}

/// Rows and columns; a row is moved in pieces of eight values.
fn rows(x: &GpuTensor) -> Result<(usize, usize)> {
    match *x.shape() {
        [t, c] if c % 8 == 0 => Ok((t, c)),
        ref shape => {
            Err(error!(Unsupported, "rms_norm on a GPU: a multiple of 8 columns expected, found {shape:?}"))
        }
    }
}

/// A thread takes eight columns, and the whole block a row of up to 8,192 at once.
fn threads(c: usize) -> usize {
    (c / 8).next_multiple_of(32).clamp(32, 1024)
}
