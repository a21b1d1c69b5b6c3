//! On a GPU: logits in bf16, read and overwritten by one kernel, a block of threads a row.

use super::{Losses, RowWeights};
use crate::Result;
use crate::device::cuda::{Argument, GpuTensor, Grid, KernelSource, Precision, address};
use crate::kernels::Write;
use crate::kernels::linear::Linear;
use crate::kernels::linear::cuda::{multiply, multiply_transposed};

pub(in crate::kernels) static SOURCE: KernelSource =
    KernelSource::new("cross_entropy", include_str!("cross_entropy.cu"));

/// Bytes of logits that exist at a time: enough rows that reading the weight is hidden by the product.
const CHUNK_BYTES: usize = 160 << 20;
/// Threads of a row.
const THREADS: usize = 1024;

/// The rows' losses and, with `weights`, dx.
pub(super) fn run(
    x: &GpuTensor,
    head: &Linear,
    targets: &[u32],
    weights: Option<RowWeights>,
) -> Result<(Losses, Option<GpuTensor>)> {
    let (gpu, n, v) = (x.gpu(), targets.len(), head.outputs());
    let losses = gpu.allocate::<f32>(n)?;
    let places = gpu.upload(targets)?;
    let dx = weights.map(|_| GpuTensor::new(gpu, x.shape())).transpose()?;
    let weights = weights.map(|weights| (0..n).map(|row| weights.of(row)).collect::<Vec<f32>>());
    let weights = weights.map(|weights| gpu.upload(&weights)).transpose()?;
    let rows = chunk_rows(v).min(n.max(1));
    let logits = GpuTensor::new(gpu, &[rows, v])?;
    for start in (0..n).step_by(rows) {
        let chunk = start..(start + rows).min(n);
        let logits = logits.rows(0..chunk.len())?;
        multiply(logits.address(), Precision::Float16, &x.rows(chunk.clone())?, head)?;
        let arguments = [
            (address(&losses) + 4 * start as u64).into(),
            (&logits).into(),
            (address(&places) + 4 * start as u64).into(),
            (v as i32).into(),
            Argument::address(weights.as_ref().map(|weights| address(weights) + 4 * start as u64)),
        ];
        gpu.launch(&SOURCE, "cross_entropy", Grid::new(chunk.len(), THREADS), &arguments)?;
        if let Some(dx) = &dx {
            multiply_transposed(&dx.rows(chunk)?, &logits, head, Write::Overwrite)?;
        }
    }
    Ok((Losses::Cuda(gpu.clone(), losses, n), dx))
}

/// Rows whose logits exist at a time.
pub(crate) fn chunk_rows(vocabulary: usize) -> usize {
    (CHUNK_BYTES / 2 / vocabulary).max(1)
}
