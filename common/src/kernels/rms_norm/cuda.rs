//! The norms on a GPU: a block of threads a row, or a warp a head.

use crate::device::GpuVector;
use crate::device::cuda::{Argument, GpuTensor, Grid, KernelSource};
use crate::{Result, error};

pub(in crate::kernels) static SOURCE: KernelSource =
    KernelSource::new("rms_norm", include_str!("rms_norm.cu"));

pub(super) fn forward(x: &GpuTensor, weight: &GpuVector, eps: f32) -> Result<GpuTensor> {
    let (t, c) = rows(x)?;
    let mut y = GpuTensor::new(x.gpu(), x.shape())?;
    let weight = weight.view(0..c)?;
    let arguments = [y.view_mut()?.into(), x.view()?.into(), weight.into(), Argument::int(c)?, eps.into()];
    // SAFETY: `rms_norm_forward(y [T, C], x [T, C], weight [C], C, eps)` with a block for each of the T rows; C is
    // a multiple of the eight columns that a thread moves at once.
    #[allow(unsafe_code)]
    unsafe {
        x.gpu().launch(&SOURCE, "rms_norm_forward", Grid::new(t, threads(c)), &arguments)?
    };
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
    let (mut dx, mut y) = (GpuTensor::new(x.gpu(), x.shape())?, GpuTensor::new(x.gpu(), x.shape())?);
    let residual = residual.map(GpuTensor::view).transpose()?;
    let given = [dy.view()?, x.view()?].into_iter().chain(residual);
    given.into_iter().try_for_each(|matrix| matrix.expect("rms_norm backward", [t, c]))?;
    let arguments = [
        dx.view_mut()?.into(),
        y.view_mut()?.into(),
        dy.view()?.into(),
        x.view()?.into(),
        weight.view(0..c)?.into(),
        Argument::optional(residual),
        Argument::int(c)?,
        eps.into(),
    ];
    // SAFETY: `rms_norm_backward(dx, y, dy, x [T, C], weight [C], residual [T, C] or null, C, eps)` with a block for
    // each of the T rows; C is a multiple of the eight columns that a thread moves at once.
    #[allow(unsafe_code)]
    unsafe {
        x.gpu().launch(&SOURCE, "rms_norm_backward", Grid::new(t, threads(c)), &arguments)?
    };
    Ok((dx, y))
}

pub(super) fn forward_heads(x: &GpuTensor, weights: &GpuVector, d: usize, eps: f32) -> Result<GpuTensor> {
    let (grid, sizes) = launch_of_heads(x, weights, d)?;
    let mut y = GpuTensor::new(x.gpu(), x.shape())?;
    let matrices = [y.view_mut()?.into(), x.view()?.into(), weights.view(0..weights.len())?.into()];
    let arguments = [&matrices[..], &sizes, &[eps.into()]].concat();
    // SAFETY: `rms_norm_heads_forward(y [T, width], x [T, width], weights [heads, D], heads, D, width, eps)` with a
    // block for each of the width / D heads of the T rows; those after the first `heads` read no weight.
    #[allow(unsafe_code)]
    unsafe {
        x.gpu().launch(&SOURCE, "rms_norm_heads_forward", grid, &arguments)?
    };
    Ok(y)
}

pub(super) fn backward_heads(
    dy: &GpuTensor,
    x: &GpuTensor,
    weights: &GpuVector,
    d: usize,
    eps: f32,
) -> Result<GpuTensor> {
    let (grid, sizes) = launch_of_heads(x, weights, d)?;
    let mut dx = GpuTensor::new(x.gpu(), x.shape())?;
    let weights = weights.view(0..weights.len())?;
    dy.view()?.expect("rms_norm of heads backward: dy", x.view()?.shape())?;
    let matrices = [dx.view_mut()?.into(), dy.view()?.into(), x.view()?.into(), weights.into()];
    let arguments = [&matrices[..], &sizes, &[eps.into()]].concat();
    // SAFETY: `rms_norm_heads_backward(dx, dy, x [T, width], weights [heads, D], heads, D, width, eps)` with a block
    // for each of the width / D heads of the T rows; those after the first `heads` read the first weights.
    #[allow(unsafe_code)]
    unsafe {
        x.gpu().launch(&SOURCE, "rms_norm_heads_backward", grid, &arguments)?
    };
    Ok(dx)
}

/// The blocks of all heads of x [T, width], and the number of heads that have weights, D and width.
fn launch_of_heads(x: &GpuTensor, weights: &GpuVector, d: usize) -> Result<(Grid, [Argument<'static>; 3])> {
    let [t, width] = x.view()?.shape();
    if d == 0 || !width.is_multiple_of(d) {
        return Err(error!(Bug, "rms_norm of heads: whole heads of {d} expected, found {width} columns"));
    }
    let sizes = Argument::ints([weights.len() / d, d, width])?;
    Ok((Grid { blocks: (t, width / d, 1), threads: 32, shared: 0 }, sizes))
}

/// T and C of x [T, C], of which a thread moves eight columns at once.
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
