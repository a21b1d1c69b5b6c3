//! On a GPU: logits in bf16, read and overwritten by one kernel, a block of threads a row.

use super::{Losses, RowWeights};
use crate::Result;
use crate::device::cuda::{Argument, GpuTensor, Grid, KernelSource, View, ViewMut};
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
    softcap: Option<f32>,
) -> Result<(Losses, Option<GpuTensor>)> {
    let (gpu, n, v) = (x.gpu(), targets.len(), head.outputs());
    let mut losses = gpu.allocate::<f32>(n)?;
    let places = gpu.upload(targets)?;
    let mut dx = weights.map(|_| GpuTensor::new(gpu, x.shape())).transpose()?;
    let weights = weights.map(|weights| (0..n).map(|row| weights.of(row)).collect::<Vec<f32>>());
    let weights = weights.map(|weights| gpu.upload(&weights)).transpose()?;
    let rows = chunk_rows(v).min(n.max(1));
    let mut logits = GpuTensor::new(gpu, &[rows, v])?;
    let kernel = match softcap {
        Some(_) => "cross_entropy_of_capped",
        None => "cross_entropy",
    };
    for start in (0..n).step_by(rows) {
        let (chunk, in_logits) = (start..(start + rows).min(n), 0..rows.min(n - start));
        let x = x.view()?.rows(chunk.clone())?;
        multiply(gpu, logits.view_mut()?.rows(in_logits.clone())?, x, head)?;
        let arguments = [
            ViewMut::from(&mut losses).columns(chunk.clone())?.into(),
            logits.view_mut()?.rows(in_logits.clone())?.into(),
            View::from(&places).columns(chunk.clone())?.into(),
            Argument::int(v)?,
            match &weights {
                Some(weights) => View::from(weights).columns(chunk.clone())?.into(),
                None => Argument::null(),
            },
            softcap.unwrap_or(0.0).into(),
        ];
        // SAFETY: either kernel takes `(losses [n], logits [n, V], targets [n], V, weights [n] or null, cap)` with a block for each of the n rows
        // of the chunk; every target is below V, as `check` in mod.rs has seen to.
        #[allow(unsafe_code)]
        unsafe {
            gpu.launch(&SOURCE, kernel, Grid::new(chunk.len(), THREADS), &arguments)?
        };
        if let Some(dx) = &mut dx {
            let dx = dx.view_mut()?.rows(chunk)?;
            multiply_transposed(gpu, dx, logits.view()?.rows(in_logits)?, head, Write::Overwrite)?;
        }
    }
    Ok((Losses::Cuda(gpu.clone(), losses, n), dx))
}

/// Rows whose logits exist at a time.
pub(crate) fn chunk_rows(vocabulary: usize) -> usize {
    (CHUNK_BYTES / 2 / vocabulary).max(1)
}
