//! The adapters' products with x where dropout gives each adapter an input of its own: one product for
//! each, with what is left of x in scratch.

use super::super::Linear;
use super::super::lora::slots;
use super::lora::{gradient, overwrite, rows_of};
use crate::Result;
use crate::device::GpuVector;
use crate::device::cuda::{Factor, GpuTensor, Precision, Product};
use crate::kernels::dropout::{self, Dropout};

/// x·Aᵀ [T, ranks] for the bf16 A's [ranks, K] at `a`; zero in the columns that pad the ranks.
pub(super) fn lora_hidden(
    x: &GpuTensor,
    linear: &Linear,
    dropout: &Dropout,
    a: u64,
    ranks: usize,
) -> Result<GpuTensor> {
    let (gpu, t, k) = (x.gpu(), x.shape()[0], linear.inputs);
    let lora_hidden = GpuTensor::zeros(gpu, &[t, ranks])?;
    for (_, columns, adapter) in slots(linear) {
        let left = dropout::cuda::forward(x, &adapter.dropout(dropout))?;
        gpu.product(&Product {
            shape: [t, columns.len(), k],
            a: rows_of(&left),
            b: Factor::new(a + 2 * (columns.start * k) as u64, k).t(),
            out: lora_hidden.address() + 2 * columns.start as u64,
            out_stride: ranks,
            precision: Precision::Float16,
            alpha: 1.0,
            added: None,
            bias: None,
        })?;
    }
    Ok(lora_hidden)
}

/// Overwrites dx [T, K] with d_lora_hidden·A for d_lora_hidden [T, ranks] and the bf16 A's at `a`.
pub(super) fn write_inputs(
    dx: &GpuTensor,
    d_lora_hidden: &GpuTensor,
    linear: &Linear,
    dropout: &Dropout,
    a: u64,
) -> Result<()> {
    let (k, ranks) = (linear.inputs, d_lora_hidden.shape()[1]);
    let part = GpuTensor::new(dx.gpu(), dx.shape())?;
    for (index, (_, columns, adapter)) in slots(linear).enumerate() {
        let d_lora_hidden = Factor::new(d_lora_hidden.address() + 2 * columns.start as u64, ranks);
        let a = Factor::new(a + 2 * (columns.start * k) as u64, k);
        overwrite(&part, d_lora_hidden, a, columns.len())?;
        match index {
            0 => dropout::cuda::overwrite(dx, &part, &adapter.dropout(dropout))?,
            _ => dropout::cuda::accumulate(dx, &part, &adapter.dropout(dropout))?,
        }
    }
    Ok(())
}

/// `dA += dlowᵀ·x` for d_lora_hidden [T, ranks].
pub(super) fn gradients(
    x: &GpuTensor,
    d_lora_hidden: &GpuTensor,
    linear: &Linear,
    dropout: &Dropout,
    gradients: &GpuVector,
) -> Result<()> {
    let (t, k, ranks) = (x.shape()[0], linear.inputs, d_lora_hidden.shape()[1]);
    for (_, columns, adapter) in slots(linear) {
        let left = dropout::cuda::forward(x, &adapter.dropout(dropout))?;
        let d_lora_hidden = Factor::new(d_lora_hidden.address() + 2 * columns.start as u64, ranks);
        let da = gradients.address_of(&adapter.a)?;
        x.gpu().product(&gradient([columns.len(), k, t], d_lora_hidden.t(), rows_of(&left), da, 1.0))?;
    }
    Ok(())
}
