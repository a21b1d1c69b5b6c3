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
    [first, second]: [&GpuVector; 2],
    own: &Range<usize>,
) -> Result<()> {
    first.prefetch()?;
    second.prefetch()?;
    let mut arguments: Vec<Argument> = vec![
        parameters.address_of(range)?.into(),
        gradients.address_of(range)?.into(),
        first.address_of(own)?.into(),
        second.address_of(own)?.into(),
        (range.len() as i64).into(),
    ];
    arguments.extend(formula.numbers().map(Argument::from));
    parameters.mark_changed();
    parameters.gpu().launch(&SOURCE, "adamw_step", Grid::cover(range.len(), THREADS), &arguments)
}

/// The same where moments are in 8 bits; `own` begins with a block.
pub(super) fn step_in_8_bits(
    formula: &Formula,
    parameters: &mut GpuVector,
    gradients: &GpuVector,
    range: &Range<usize>,
    moments: &GpuQuantized,
    own: &Range<usize>,
) -> Result<()> {
    let GpuQuantized { gpu, codes, absmax, maps, len } = moments;
    if own.end > *len || own.len() != range.len() {
        return Err(error!(Bug, "adamw: moments {own:?} of {len}"));
    }
    for moment in 0..2 {
        codes[moment].prefetch()?;
        absmax[moment].prefetch()?;
    }
    let codes = |moment: usize| codes[moment].address() + own.start as u64;
    let absmax = |moment: usize| absmax[moment].address() + 4 * (own.start / BLOCK) as u64;
    let mut arguments: Vec<Argument> = vec![
        parameters.address_of(range)?.into(),
        gradients.address_of(range)?.into(),
        codes(0).into(),
        absmax(0).into(),
        codes(1).into(),
        absmax(1).into(),
        maps.into(),
        (range.len() as i64).into(),
    ];
    arguments.extend(formula.numbers().map(Argument::from));
    parameters.mark_changed();
    let blocks = range.len().div_ceil(BLOCK).min(STEP_BLOCKS);
    gpu.launch(&IN_8_BITS, "adamw8_step", Grid::new(blocks, BLOCK), &arguments)
}

pub(super) fn norm(values: &GpuVector) -> Result<f64> {
    let gpu = values.gpu();
    let sums = gpu.allocate::<f64>(NORM_BLOCKS)?;
    let arguments = [(&sums).into(), values.into(), (values.len() as i64).into()];
    gpu.launch(&SOURCE, "sum_of_squares", Grid::new(NORM_BLOCKS, THREADS), &arguments)?;
    Ok(gpu.download(&sums, NORM_BLOCKS)?.into_iter().sum::<f64>().sqrt())
}
