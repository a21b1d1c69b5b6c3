//! The adapters' products on a GPU. Parameters and gradients are f32; the products read 16-bit copies:
//! the A's of a stack as one matrix [ΣR, K], and the B's as one [ΣN, ΣR] that is zero outside each
//! projection's block, so that every product runs once for the whole stack.

use std::sync::Arc;

use super::super::Linear;
use super::super::lora::{slots, stacked_a};
use super::dropped;
use crate::Result;
use crate::device::GpuVector;
use crate::device::cuda::{Argument, Gpu, GpuTensor, Grid, KernelSource, Product, ViewMut, buffer_bytes};
use crate::kernels::Write;
use crate::kernels::dropout::Dropout;

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new("lora", include_str!("../lora.cu"));

/// ΣR is rounded up to a multiple of this: 16 bytes of 16-bit numbers.
const RANK_STEP: usize = 8;

/// 16-bit copies of a stack's A and B, refreshed when the parameters change.
pub(in super::super) struct Adapters16 {
    /// [ΣR, K], where ΣR is rounded up.
    a: GpuTensor,
    /// B times its adapter's scale, [ΣN, ΣR].
    b: GpuTensor,
}

/// Bytes that [`Adapters16::new`] takes.
pub(super) fn bytes(inputs: usize, outputs: usize, ranks: usize) -> u64 {
    let ranks = ranks.next_multiple_of(RANK_STEP);
    buffer_bytes::<u16>(ranks * inputs) + buffer_bytes::<u16>(outputs * ranks)
}

impl Adapters16 {
    /// Copies of the adapters of `linear`.
    pub(super) fn new(gpu: &Arc<Gpu>, linear: &Linear, parameters: &GpuVector) -> Result<Self> {
        let ranks = linear.ranks().next_multiple_of(RANK_STEP);
        let a = GpuTensor::new(gpu, &[ranks, linear.inputs])?;
        let mut copies = Self { a, b: GpuTensor::new(gpu, &[linear.outputs, ranks])? };
        copies.refresh(linear, parameters)?;
        Ok(copies)
    }

    /// Whether the adapters of `linear` have the extents of these.
    pub(super) fn are_of(&self, linear: &Linear) -> bool {
        let ranks = linear.ranks().next_multiple_of(RANK_STEP);
        self.a.shape() == [ranks, linear.inputs] && self.b.shape() == [linear.outputs, ranks]
    }

    /// Copies the adapters of `linear` anew.
    pub(super) fn refresh(&mut self, linear: &Linear, parameters: &GpuVector) -> Result<()> {
        let (gpu, ranks) = (parameters.gpu(), self.a.shape()[0]);
        let (filled, len) = (stacked_a(linear), self.a.len());
        let [filled_len, all] = [filled.len(), len].map(Argument::int64);
        let arguments = [self.a.view_mut()?.into(), parameters.view(filled)?.into(), filled_len, all];
        // SAFETY: `cast_a(a [ΣR, K], parameters [filled], filled, len)`; `len` is that of a, and where `filled` is less
        // the rest is zeros.
        #[allow(unsafe_code)]
        unsafe {
            gpu.launch(&SOURCE, "cast_a", Grid::cover(len, 256), &arguments)?
        };
        let mut b = self.b.view_mut()?;
        let (mut row, mut first_rank) = (0, 0);
        for projection in &linear.projections {
            let n = projection.weight.shape()[0];
            let (from, rank, scale) = match &projection.adapter {
                Some(adapter) => (adapter.b.clone(), adapter.rank, adapter.scale),
                None => (0..0, 0, 0.0),
            };
            let from = parameters.view(from)?.matrix(n, rank)?;
            let out = b.reborrow().rows(row..row + n)?;
            let sizes = Argument::ints([n, rank, first_rank, ranks])?;
            let arguments = [&[out.into(), from.into()], &sizes[..], &[scale.into()]].concat();
            // SAFETY: `place_b(b [N, ΣR], parameters [N, rank], N, rank, first rank, ΣR, scale)`; `b` is the N rows of the
            // projection.
            #[allow(unsafe_code)]
            unsafe {
                gpu.launch(&SOURCE, "place_b", Grid::cover(n * ranks, 256), &arguments)?
            };
            row += n;
            first_rank += rank;
        }
        Ok(())
    }

    /// x·Aᵀ [T, ΣR], of what is not dropped.
    pub(super) fn lora_hidden(
        &self,
        x: &GpuTensor,
        linear: &Linear,
        dropout: Option<Dropout>,
    ) -> Result<GpuTensor> {
        if let Some(dropout) = dropout {
            return dropped::lora_hidden(x, linear, &dropout, &self.a);
        }
        let mut lora_hidden = GpuTensor::new(x.gpu(), &[x.shape()[0], self.a.shape()[0]])?;
        let product = Product::new(x.view()?, self.a.view()?.t());
        x.gpu().product(product, lora_hidden.view_mut()?, Write::Overwrite)?;
        Ok(lora_hidden)
    }

    /// Writes scale·lora_hidden·Bᵀ to y [T, ΣN].
    pub(super) fn outputs(&self, y: &mut GpuTensor, lora_hidden: &GpuTensor, write: Write) -> Result<()> {
        let product = Product::new(lora_hidden.view()?, self.b.view()?.t());
        lora_hidden.gpu().product(product, y.view_mut()?, write)
    }

    /// d_lora_hidden = scale·dy·B [T, ΣR]
    pub(super) fn backward(&self, dy: &GpuTensor) -> Result<GpuTensor> {
        let mut d_lora_hidden = GpuTensor::new(dy.gpu(), &[dy.shape()[0], self.b.shape()[1]])?;
        let product = Product::new(dy.view()?, self.b.view()?);
        dy.gpu().product(product, d_lora_hidden.view_mut()?, Write::Overwrite)?;
        Ok(d_lora_hidden)
    }

    /// Writes d_lora_hidden·A, of what was not dropped, to dx [T, K].
    pub(super) fn inputs(
        &self,
        dx: &mut GpuTensor,
        d_lora_hidden: &GpuTensor,
        linear: &Linear,
        dropout: Option<Dropout>,
        write: Write,
    ) -> Result<()> {
        match dropout {
            Some(dropout) => dropped::inputs(dx, d_lora_hidden, linear, &dropout, &self.a, write),
            None => {
                let product = Product::new(d_lora_hidden.view()?, self.a.view()?);
                d_lora_hidden.gpu().product(product, dx.view_mut()?, write)
            }
        }
    }
}

/// `dA += d_lora_hiddenᵀ·x`, of what was not dropped, and `dB += scale·dyᵀ·(x·Aᵀ)`.
pub(super) fn gradients(
    (dy, d_lora_hidden): (&GpuTensor, &GpuTensor),
    (x, lora_hidden): (&GpuTensor, &GpuTensor),
    linear: &Linear,
    dropout: Option<Dropout>,
    gradients: &mut GpuVector,
) -> Result<()> {
    let gpu = x.gpu();
    match dropout {
        Some(dropout) => dropped::gradients(x, d_lora_hidden, linear, &dropout, gradients)?,
        None => {
            let ranks = linear.ranks();
            let da = gradients.view_mut(stacked_a(linear))?.matrix(ranks, linear.inputs)?;
            let d_lora_hidden = d_lora_hidden.view()?.columns(0..ranks)?;
            gpu.product(Product::new(d_lora_hidden.t(), x.view()?), da, Write::Add)?;
        }
    }
    for (columns, rank_columns, adapter) in slots(linear) {
        let db: ViewMut<'_, f32> =
            gradients.view_mut(adapter.b.clone())?.matrix(columns.len(), adapter.rank)?;
        let (dy, lora_hidden) = (dy.view()?.columns(columns)?, lora_hidden.view()?.columns(rank_columns)?);
        gpu.product(Product::new(dy.t(), lora_hidden).scaled(adapter.scale), db, Write::Add)?;
    }
    Ok(())
}
