//! The adapters' products with x where dropout gives each adapter an input of its own: one product for
//! each, with what is left of x in scratch.

use super::super::Linear;
use super::super::lora::slots;
use crate::Result;
use crate::device::GpuVector;
use crate::device::cuda::{GpuTensor, Product};
use crate::kernels::Write;
use crate::kernels::dropout::{self, Dropout};

/// x·Aᵀ [T, ΣR] for the A's [ΣR, K]; zero in the columns that pad the ranks.
pub(super) fn lora_hidden(
    x: &GpuTensor,
    linear: &Linear,
    dropout: &Dropout,
    a: &GpuTensor,
) -> Result<GpuTensor> {
    let mut lora_hidden = GpuTensor::zeros(x.gpu(), &[x.shape()[0], a.shape()[0]])?;
    for (_, columns, adapter) in slots(linear) {
        let left = dropout::cuda::forward(x, &adapter.dropout(dropout))?;
        let product = Product::new(left.view()?, a.view()?.rows(columns.clone())?.t());
        x.gpu().product(product, lora_hidden.view_mut()?.columns(columns)?, Write::Overwrite)?;
    }
    Ok(lora_hidden)
}

/// Writes d_lora_hidden·A, of what was not dropped, to dx [T, K].
pub(super) fn inputs(
    dx: &mut GpuTensor,
    d_lora_hidden: &GpuTensor,
    linear: &Linear,
    dropout: &Dropout,
    a: &GpuTensor,
    mut write: Write,
) -> Result<()> {
    let mut part = GpuTensor::new(dx.gpu(), dx.shape())?;
    for (_, columns, adapter) in slots(linear) {
        let d_lora_hidden = d_lora_hidden.view()?.columns(columns.clone())?;
        let product = Product::new(d_lora_hidden, a.view()?.rows(columns)?);
        dx.gpu().product(product, part.view_mut()?, Write::Overwrite)?;
        dropout::cuda::apply(dx, &part, &adapter.dropout(dropout), write)?;
        write = Write::Add;
    }
    Ok(())
}

/// `dA += d_lora_hiddenᵀ·x`, of what was not dropped, for d_lora_hidden [T, ΣR].
pub(super) fn gradients(
    x: &GpuTensor,
    d_lora_hidden: &GpuTensor,
    linear: &Linear,
    dropout: &Dropout,
    gradients: &mut GpuVector,
) -> Result<()> {
    for (_, columns, adapter) in slots(linear) {
        let left = dropout::cuda::forward(x, &adapter.dropout(dropout))?;
        let d_lora_hidden = d_lora_hidden.view()?.columns(columns)?;
        let da = gradients.view_mut(adapter.a.clone())?.matrix(adapter.rank, linear.inputs)?;
        x.gpu().product(Product::new(d_lora_hidden.t(), left.view()?), da, Write::Add)?;
    }
    Ok(())
}
