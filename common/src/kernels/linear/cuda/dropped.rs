//! The adapters' products with x where dropout gives each adapter an input of its own: one product for
//! each, with what is left of x in scratch.

use super::super::Linear;
use super::super::lora::slots;
use super::lora::{gradient, product};
use crate::Result;
use crate::device::GpuVector;
use crate::device::cuda::{Factor, GpuTensor, Product};
use crate::kernels::dropout::{self, Dropout};

/// x·Aᵀ [T, ranks] for the bf16 A's [ranks, K] at `a`; zero in the columns that pad the ranks.
pub(super) fn low(
    x: &GpuTensor,
    linear: &Linear,
    dropout: &Dropout,
    a: u64,
    ranks: usize,
) -> Result<GpuTensor> {
    let (gpu, t, k) = (x.gpu(), x.shape()[0], linear.inputs);
    let low = GpuTensor::zeros(gpu, &[t, ranks])?;
    for (_, columns, adapter) in slots(linear) {
        let left = dropout::cuda::forward(x, &adapter.dropout(dropout))?;
        let a = Factor::new(a + 2 * (columns.start * k) as u64, k).t();
        let out = low.address() + 2 * columns.start as u64;
        let whole = product([t, columns.len(), k], Factor::new(left.address(), k), a, &low);
        gpu.product(&Product { out, out_stride: ranks, ..whole })?;
    }
    Ok(low)
}

/// With dlow [T, ranks]: `dA += dlowᵀ·x`, and `dx = dlow·A` where dx is wanted, both of what is left.
pub(super) fn backward(
    dx: Option<&GpuTensor>,
    x: &GpuTensor,
    dlow: &GpuTensor,
    linear: &Linear,
    dropout: &Dropout,
    a: u64,
    gradients: &GpuVector,
) -> Result<()> {
    let (gpu, t, k, ranks) = (x.gpu(), x.shape()[0], linear.inputs, dlow.shape()[1]);
    let mut is_first = true;
    for (_, columns, adapter) in slots(linear) {
        let dropout = adapter.dropout(dropout);
        let left = dropout::cuda::forward(x, &dropout)?;
        let dlow = Factor::new(dlow.address() + 2 * columns.start as u64, ranks);
        let da = gradients.address_of(&adapter.a)?;
        let x = Factor::new(left.address(), k);
        gpu.product(&gradient([columns.len(), k, t], dlow.t(), x, da, 1.0))?;
        if let Some(dx) = dx {
            let part = GpuTensor::new(gpu, &[t, k])?;
            let a = Factor::new(a + 2 * (columns.start * k) as u64, k);
            gpu.product(&product([t, k, columns.len()], dlow, a, &part))?;
            match is_first {
                true => dropout::cuda::overwrite(dx, &part, &dropout)?,
                false => dropout::cuda::accumulate(dx, &part, &dropout)?,
            }
            is_first = false;
        }
    }
    Ok(())
}
