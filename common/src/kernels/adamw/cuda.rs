//! The optimizer on a GPU: a thread a parameter; in 8 bits, a block of threads a block of moments.

use std::ops::Range;

use super::Formula;
use super::quantized::{BLOCK, GpuQuantized};
use crate::device::GpuVector;
use crate::device::cuda::{Argument, Grid, KernelSource};
use crate::{Result, error};

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new("adamw", include_str!("adamw.cu"));
pub(in crate::kernels) static IN_8_BITS: KernelSource =
    KernelSource::new("adamw8", include_str!("adamw8.cu"));

const THREADS: usize = 256;
/// Blocks that share the values of a norm; fixed, and with it the order of the sum.
const NORM_BLOCKS: usize = 512;
/// Most blocks that step in 8 bits at a time: enough to fill a GPU, few enough to read the maps once.
const STEP_BLOCKS: usize = 2048;

/// A step of the parameters in `range`, whose moments are those in `own`.
pub(super) fn step(
    formula: &Formula,
    parameters: &mut GpuVector,
    gradients: &GpuVector,
    range: &Range<usize>,
    [first, second]: [&mut GpuVector; 2],
    own: &Range<usize>,
) -> Result<()> {
    first.prefetch()?;
    second.prefetch()?;
    if own.len() != range.len() {
        return Err(error!(Bug, "adamw: moments {own:?} of parameters {range:?}"));
    }
    let gpu = parameters.gpu().clone();
    let values = [
        parameters.view_mut(range.clone())?.into(),
        gradients.view(range.clone())?.into(),
        first.view_mut(own.clone())?.into(),
        second.view_mut(own.clone())?.into(),
        Argument::int64(range.len()),
    ];
    let arguments = [&values[..], &formula.numbers().map(Argument::from)].concat();
    // SAFETY: `adamw_step(parameters, gradients, first, second [len], len, seven numbers)`; all four are as long as
    // `range`, and any grid covers them.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&SOURCE, "adamw_step", Grid::cover(range.len(), THREADS), &arguments)
    }
}

/// As [`step`], for moments in 8 bits; `own` begins with a block.
pub(super) fn step_in_8_bits(
    formula: &Formula,
    parameters: &mut GpuVector,
    gradients: &GpuVector,
    range: &Range<usize>,
    moments: &mut GpuQuantized,
    own: &Range<usize>,
) -> Result<()> {
    let GpuQuantized { gpu, codes: [first, second], absmax: [first_absmax, second_absmax], maps, len } =
        moments;
    if own.end > *len || own.len() != range.len() || !own.start.is_multiple_of(BLOCK) {
        return Err(error!(Bug, "adamw: moments {own:?} of {len}"));
    }
    first.prefetch()?;
    first_absmax.prefetch()?;
    second.prefetch()?;
    second_absmax.prefetch()?;
    let blocks = own.start / BLOCK..own.end.div_ceil(BLOCK);
    let values = [
        parameters.view_mut(range.clone())?.into(),
        gradients.view(range.clone())?.into(),
        first.view_mut().columns(own.clone())?.into(),
        first_absmax.view_mut().columns(blocks.clone())?.into(),
        second.view_mut().columns(own.clone())?.into(),
        second_absmax.view_mut().columns(blocks.clone())?.into(),
        (&*maps).into(),
        Argument::int64(range.len()),
    ];
    let arguments = [&values[..], &formula.numbers().map(Argument::from)].concat();
    let grid = Grid::new(blocks.len().min(STEP_BLOCKS), BLOCK);
    // SAFETY: `adamw8_step(parameters, gradients [len], codes [len], absmax [ceil(len / 256)], the same of the second
    // moment, maps [4, 256], len, seven numbers)`; `range` and `own` are `len` values, and any grid covers them.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&IN_8_BITS, "adamw8_step", grid, &arguments)
    }
}

pub(super) fn norm(values: &GpuVector) -> Result<f64> {
    let gpu = values.gpu();
    let mut sums = gpu.allocate::<f64>(NORM_BLOCKS)?;
    let arguments = [(&mut sums).into(), values.view(0..values.len())?.into(), Argument::int64(values.len())];
    // SAFETY: `sum_of_squares(sums [blocks], values [len], len)` in blocks of the 256 threads that it is written for.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(&SOURCE, "sum_of_squares", Grid::new(NORM_BLOCKS, THREADS), &arguments)?
    };
    Ok(gpu.download(&sums, NORM_BLOCKS)?.into_iter().sum::<f64>().sqrt())
}
