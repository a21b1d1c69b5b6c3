//! The optimizer on a GPU: a thread a parameter.

use std::ops::Range;

use super::{AdamW, Factors};
use crate::Result;
use crate::device::GpuVector;
use crate::device::cuda::{Argument, Grid, Source};

pub(in crate::kernels) static SOURCE: Source = Source { name: "adamw", text: include_str!("adamw.cu") };

const THREADS: usize = 256;
/// Blocks that share the values of a norm; fixed, and with it the order of the sum.
const NORM_BLOCKS: usize = 512;

/// A step of the parameters in `range`; `vectors` are parameters, gradients, first and second moments.
pub(super) fn step(
    optimizer: &AdamW,
    range: &Range<usize>,
    factors: &Factors,
    vectors: [&GpuVector; 4],
    scale: f32,
) -> Result<()> {
    let AdamW { beta1, beta2, epsilon, .. } = *optimizer;
    let gpu = vectors[0].gpu();
    let mut arguments: Vec<Argument> = Vec::new();
    for vector in vectors {
        arguments.push(vector.address_of(range)?.into());
    }
    arguments.push((range.len() as i64).into());
    let numbers = [scale, beta1, beta2, epsilon, factors.decay, factors.step_size, factors.root_correction];
    arguments.extend(numbers.map(Argument::from));
    gpu.launch(&SOURCE, "adamw_step", Grid::cover(range.len(), THREADS), &arguments)
}

pub(super) fn norm(values: &GpuVector) -> Result<f64> {
    let gpu = values.gpu();
    let sums = gpu.allocate::<f64>(NORM_BLOCKS)?;
    let arguments = [(&sums).into(), values.into(), (values.len() as i64).into()];
    gpu.launch(&SOURCE, "sum_of_squares", Grid::new(NORM_BLOCKS, THREADS), &arguments)?;
    Ok(gpu.download(&sums, NORM_BLOCKS)?.into_iter().sum::<f64>().sqrt())
}
