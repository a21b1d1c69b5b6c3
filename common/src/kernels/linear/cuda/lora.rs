//! The adapters' products on a GPU. Parameters and gradients are f32; the products read 16-bit copies:
//! the A's of a stack as one matrix [ΣR, K], and the B's as one [ΣN, ΣR] that is zero outside each
//! projection's block, so that every product runs once for the whole stack.

use super::super::Linear;
use super::super::lora::{slots, stacked_a};
use super::dropped;
use crate::Result;
use crate::device::GpuVector;
use crate::device::cuda::{Factor, GpuTensor, Grid, KernelSource, Precision, Product, address, buffer_bytes};
use crate::kernels::dropout::Dropout;

use cudarc::driver::CudaSlice;

pub(in crate::kernels) static SOURCE: KernelSource = KernelSource::new("lora", include_str!("../lora.cu"));

/// ΣR is rounded up to a multiple of this: 16 bytes of bf16.
const RANK_STEP: usize = 8;

/// The 16-bit copies.
pub(super) struct Adapters16 {
    /// [ΣR, K]
    a: CudaSlice<u16>,
    /// Scaled, [ΣN, ΣR].
    b: CudaSlice<u16>,
    /// ΣR, rounded up.
    ranks: usize,
    /// K
    inputs: usize,
    /// ΣN
    outputs: usize,
}

/// Bytes that [`Adapters16::new`] takes.
pub(in super::super) fn bytes(inputs: usize, outputs: usize, ranks: usize) -> u64 {
    let ranks = ranks.next_multiple_of(RANK_STEP);
    buffer_bytes::<u16>(ranks * inputs) + buffer_bytes::<u16>(outputs * ranks)
}

impl Adapters16 {
    pub(super) fn new(linear: &Linear, parameters: &GpuVector) -> Result<Self> {
        let (gpu, inputs, outputs) = (parameters.gpu(), linear.inputs, linear.outputs);
        let ranks = linear.ranks().next_multiple_of(RANK_STEP);
        let (a, b) = (gpu.allocate(ranks * inputs)?, gpu.allocate(outputs * ranks)?);
        let stacked = stacked_a(linear);
        let arguments = [
            (&a).into(),
            parameters.address_of(&stacked)?.into(),
            (stacked.len() as i64).into(),
            ((ranks * inputs) as i64).into(),
        ];
        gpu.launch(&SOURCE, "narrow_a", Grid::cover(ranks * inputs, 256), &arguments)?;
        let (mut column, mut first_rank) = (0, 0);
        for projection in &linear.projections {
            let rows = projection.weight.shape()[0];
            let (from, rank, scale) = match &projection.adapter {
                Some(adapter) => (parameters.address_of(&adapter.b)?, adapter.rank, adapter.scale),
                None => (parameters.address(), 0, 0.0),
            };
            let sizes = [rows, rank, first_rank, ranks].map(|size| (size as i32).into());
            let out = address(&b) + 2 * (column * ranks) as u64;
            let arguments = [&[out.into(), from.into()], &sizes[..], &[scale.into()]].concat();
            gpu.launch(&SOURCE, "place_b", Grid::cover(rows * ranks, 256), &arguments)?;
            column += rows;
            first_rank += rank;
        }
        Ok(Self { a, b, ranks, inputs, outputs })
    }

    /// [ΣR, K]
    fn a(&self) -> Factor {
        Factor::new(address(&self.a), self.inputs)
    }

    /// [ΣN, ΣR]
    fn b(&self) -> Factor {
        Factor::new(address(&self.b), self.ranks)
    }

    /// x·Aᵀ [T, ΣR], of what is not dropped.
    pub(super) fn lora_hidden(
        &self,
        x: &GpuTensor,
        linear: &Linear,
        dropout: Option<Dropout>,
    ) -> Result<GpuTensor> {
        if let Some(dropout) = dropout {
            return dropped::lora_hidden(x, linear, &dropout, address(&self.a), self.ranks);
        }
        let lora_hidden = GpuTensor::new(x.gpu(), &[x.shape()[0], self.ranks])?;
        overwrite(&lora_hidden, rows_of(x), self.a().t(), self.inputs)?;
        Ok(lora_hidden)
    }

    /// Overwrites y [T, ΣN] with scale·lora_hidden·Bᵀ.
    pub(super) fn write_outputs(&self, y: &GpuTensor, lora_hidden: &GpuTensor) -> Result<()> {
        overwrite(y, rows_of(lora_hidden), self.b().t(), self.ranks)
    }

    /// d_lora_hidden = scale·dy·B [T, ΣR]
    pub(super) fn backward(&self, dy: &GpuTensor) -> Result<GpuTensor> {
        let d_lora_hidden = GpuTensor::new(dy.gpu(), &[dy.shape()[0], self.ranks])?;
        overwrite(&d_lora_hidden, rows_of(dy), self.b(), self.outputs)?;
        Ok(d_lora_hidden)
    }

    /// Overwrites dx [T, K] with d_lora_hidden·A, of what was not dropped.
    pub(super) fn write_inputs(
        &self,
        dx: &GpuTensor,
        d_lora_hidden: &GpuTensor,
        linear: &Linear,
        dropout: Option<Dropout>,
    ) -> Result<()> {
        match dropout {
            Some(dropout) => dropped::write_inputs(dx, d_lora_hidden, linear, &dropout, address(&self.a)),
            None => overwrite(dx, rows_of(d_lora_hidden), self.a(), self.ranks),
        }
    }
}

/// `dA += dlowᵀ·x`, of what was not dropped, and `dB += scale·dyᵀ·(x·Aᵀ)`.
pub(super) fn gradients(
    (dy, d_lora_hidden): (&GpuTensor, &GpuTensor),
    (x, lora_hidden): (&GpuTensor, &GpuTensor),
    linear: &Linear,
    dropout: Option<Dropout>,
    gradients: &GpuVector,
) -> Result<()> {
    let (gpu, t, k, n) = (x.gpu(), x.shape()[0], linear.inputs, linear.outputs);
    match dropout {
        Some(dropout) => dropped::gradients(x, d_lora_hidden, linear, &dropout, gradients)?,
        None => {
            let da = gradients.address_of(&stacked_a(linear))?;
            gpu.product(&gradient([linear.ranks(), k, t], rows_of(d_lora_hidden).t(), rows_of(x), da, 1.0))?;
        }
    }
    for (columns, rank_columns, adapter) in slots(linear) {
        let dy = Factor::new(dy.address() + 2 * columns.start as u64, n).t();
        let lora_hidden =
            Factor::new(lora_hidden.address() + 2 * rank_columns.start as u64, lora_hidden.shape()[1]);
        let db = gradients.address_of(&adapter.b)?;
        gpu.product(&gradient([columns.len(), adapter.rank, t], dy, lora_hidden, db, adapter.scale))?;
    }
    Ok(())
}

/// A product that is added to a contiguous f32 matrix of gradients.
pub(super) fn gradient(shape: [usize; 3], a: Factor, b: Factor, out: u64, alpha: f32) -> Product {
    Product {
        shape,
        a,
        b,
        out,
        out_stride: shape[1],
        precision: Precision::F32,
        alpha,
        added: Some(out),
        bias: None,
    }
}

/// A matrix as it lies.
pub(super) fn rows_of(matrix: &GpuTensor) -> Factor {
    Factor::new(matrix.address(), matrix.shape()[1])
}

/// Overwrites `out [M, N]` with `a [M, K]·b [K, N]`.
pub(super) fn overwrite(out: &GpuTensor, a: Factor, b: Factor, k: usize) -> Result<()> {
    let [m, n] = [out.shape()[0], out.shape()[1]];
    out.gpu().product(&Product {
        shape: [m, n, k],
        a,
        b,
        out: out.address(),
        out_stride: n,
        precision: Precision::Float16,
        alpha: 1.0,
        added: None,
        bias: None,
    })
}
