//! Gated linear units on a GPU: a thread takes eight columns of a row.

use super::Activation;
use crate::device::cuda::{Argument, GpuTensor, Grid, KernelSource};
use crate::device::{GpuVector, Vector};
use crate::{Result, error};

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new("glu", include_str!("glu.cu"));

const THREADS: usize = 256;

pub(super) fn forward(gate_up: &GpuTensor, f: usize, activation: Activation) -> Result<GpuTensor> {
    let name = match activation {
        Activation::Silu => "swiglu_forward",
        Activation::GeluTanh => "geglu_forward",
    };
    let (grid, sizes) = launch_of(gate_up, f)?;
    let mut h = GpuTensor::new(gate_up.gpu(), &[gate_up.shape()[0], f])?;
    let arguments = [&[h.view_mut()?.into(), gate_up.view()?.into()], &sizes[..]].concat();
    // SAFETY: either kernel takes `(h [T, F], gate_up [T, 2F], F, blocks of a row)` with the blocks of T rows; F is a
    // multiple of the eight columns that a thread moves at once.
    #[allow(unsafe_code)]
    unsafe {
        gate_up.gpu().launch(&SOURCE, name, grid, &arguments)?
    };
    Ok(h)
}

/// dgate_up and h from dh and gate_up, which are overwritten where nothing else shares them.
pub(super) fn backward(
    dh: GpuTensor,
    gate_up: GpuTensor,
    f: usize,
    activation: Activation,
) -> Result<(GpuTensor, GpuTensor)> {
    let name = match activation {
        Activation::Silu => "swiglu_backward",
        Activation::GeluTanh => "geglu_backward",
    };
    let (grid, sizes) = launch_of(&gate_up, f)?;
    let gpu = dh.gpu().clone();
    let ((mut dgate_up, gate_up), (mut h, dh)) = (gate_up.overwritten()?, dh.overwritten()?);
    let [to_gate_up, from_gate_up] = of_both(&mut dgate_up, gate_up.as_ref())?;
    let [to_h, from_dh] = of_both(&mut h, dh.as_ref())?;
    let arguments = [&[to_gate_up, to_h, from_dh, from_gate_up], &sizes[..]].concat();
    // SAFETY: either kernel takes `(dgate_up [T, 2F], h [T, F], dh [T, F], gate_up [T, 2F], F, blocks of a row)` with
    // the blocks of T rows. Where an output is written over its input, a thread has read all that it writes.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&SOURCE, name, grid, &arguments)?
    };
    Ok((dgate_up, h))
}

/// [`forward`] with each row of h multiplied with its weight.
pub(super) fn forward_weighted(
    gate_up: &GpuTensor,
    f: usize,
    activation: Activation,
    weights: &GpuVector,
) -> Result<GpuTensor> {
    let name = match activation {
        Activation::Silu => "swiglu_forward_weighted",
        Activation::GeluTanh => "geglu_forward_weighted",
    };
    let (grid, sizes) = launch_of(gate_up, f)?;
    let rows = gate_up.shape()[0];
    let mut h = GpuTensor::new(gate_up.gpu(), &[rows, f])?;
    let weights = weights.view(0..rows)?.into();
    let arguments = [&[h.view_mut()?.into(), gate_up.view()?.into(), weights], &sizes[..]].concat();
    // SAFETY: either kernel takes `(h [T, F], gate_up [T, 2F], weights [T], F, blocks of a row)` with the blocks of T rows;
    // F is a multiple of the eight columns that a thread moves at once.
    #[allow(unsafe_code)]
    unsafe {
        gate_up.gpu().launch(&SOURCE, name, grid, &arguments)?
    };
    Ok(h)
}

/// dgate_up, h and the gradients of the weights, from [`backward`] with a weight for each row. A block takes a row.
pub(super) fn backward_weighted(
    dh: GpuTensor,
    gate_up: GpuTensor,
    f: usize,
    activation: Activation,
    weights: &GpuVector,
) -> Result<(GpuTensor, GpuTensor, Vector)> {
    let name = match activation {
        Activation::Silu => "swiglu_backward_weighted",
        Activation::GeluTanh => "geglu_backward_weighted",
    };
    let (_, [columns, _]) = launch_of(&gate_up, f)?;
    let (gpu, rows) = (dh.gpu().clone(), dh.shape()[0]);
    let mut dweights = Vector::on_gpu(&gpu, rows)?;
    let ((mut dgate_up, gate_up), (mut h, dh)) = (gate_up.overwritten()?, dh.overwritten()?);
    let [to_gate_up, from_gate_up] = of_both(&mut dgate_up, gate_up.as_ref())?;
    let [to_h, from_dh] = of_both(&mut h, dh.as_ref())?;
    let to_weights = dweights.gpu_mut()?.view_mut(0..rows)?.into();
    let from_weights = weights.view(0..rows)?.into();
    let arguments = [to_gate_up, to_h, to_weights, from_dh, from_gate_up, from_weights, columns];
    let grid = Grid::new(rows, (f / 8).next_multiple_of(32).min(THREADS));
    // SAFETY: either kernel takes `(dgate_up [T, 2F], h [T, F], dweights [T], dh [T, F], gate_up [T, 2F], weights [T], F)`
    // with a block for each row. Where an output is written over its input, a thread has read all that it writes.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&SOURCE, name, grid, &arguments)?
    };
    Ok((dgate_up, h, dweights))
}

/// The arguments for an output and its input, which is the output itself where there is no other.
fn of_both<'a>(output: &'a mut GpuTensor, input: Option<&'a GpuTensor>) -> Result<[Argument<'a>; 2]> {
    let output = output.view_mut()?;
    match input {
        Some(input) => Ok([output.into(), input.view()?.into()]),
        None => Ok(Argument::in_place(output)),
    }
}

/// The blocks of all rows of gate_up [T, 2F], and F and the blocks of a row.
fn launch_of(gate_up: &GpuTensor, f: usize) -> Result<(Grid, [Argument<'static>; 2])> {
    if !f.is_multiple_of(8) {
        return Err(error!(Unsupported, "glu on a GPU: a feed-forward width in eights expected, found {f}"));
    }
    let blocks = (f / 8).div_ceil(THREADS);
    Ok((Grid::new(gate_up.shape()[0] * blocks, THREADS), Argument::ints([f, blocks])?))
}
