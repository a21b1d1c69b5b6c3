//! The adapters' products on a GPU. Parameters and gradients are f32; the products read bf16 copies:
//! the A's of a stack as one matrix [ΣR, K], and the B's as one [ΣN, ΣR] that is zero outside each
//! projection's block, so that every product runs once for the whole stack.

use half::bf16;

use super::super::lora::{slots, stacked_a};
use super::super::{Linear, Parameters};
use super::dropped;
use crate::Result;
use crate::device::GpuVector;
use crate::device::cuda::{Factor, GpuTensor, Grid, Precision, Product, Source, address};

use cudarc::driver::CudaSlice;

pub(in crate::kernels) static SOURCE: Source = Source { name: "lora", text: include_str!("../lora.cu") };

/// ΣR is rounded up to a multiple of this: 16 bytes of bf16.
const RANK_STEP: usize = 8;

/// The bf16 copies.
struct Narrow {
    /// [ΣR, K]
    a: CudaSlice<bf16>,
    /// Scaled, [ΣN, ΣR].
    b: CudaSlice<bf16>,
    /// ΣR, rounded up.
    ranks: usize,
}

impl Narrow {
    fn new(linear: &Linear, parameters: &GpuVector) -> Result<Self> {
        let (gpu, k, n) = (parameters.gpu(), linear.inputs, linear.outputs);
        let ranks = linear.ranks().next_multiple_of(RANK_STEP);
        let (a, b) = (gpu.allocate(ranks * k)?, gpu.allocate(n * ranks)?);
        let stacked = stacked_a(linear);
        let arguments = [
            (&a).into(),
            parameters.address_of(&stacked)?.into(),
            (stacked.len() as i64).into(),
            ((ranks * k) as i64).into(),
        ];
        gpu.launch(&SOURCE, "narrow_a", Grid::cover(ranks * k, 256), &arguments)?;
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
        Ok(Self { a, b, ranks })
    }
}

/// Overwrites y [T, ΣN] with `scale·(x·Aᵀ)·Bᵀ` and returns x·Aᵀ [T, ΣR].
pub(super) fn forward(
    y: &GpuTensor,
    x: &GpuTensor,
    linear: &Linear,
    parameters: Parameters,
) -> Result<GpuTensor> {
    let (gpu, t, k, n) = (x.gpu(), x.shape()[0], linear.inputs, linear.outputs);
    let Narrow { a, b, ranks } = Narrow::new(linear, parameters.values.gpu()?)?;
    let low = match parameters.dropout {
        Some(dropout) => dropped::low(x, linear, &dropout, address(&a), ranks)?,
        None => {
            let low = GpuTensor::new(gpu, &[t, ranks])?;
            let x = Factor::new(x.address(), k);
            gpu.product(&product([t, ranks, k], x, Factor::new(address(&a), k).t(), &low))?;
            low
        }
    };
    let low_factor = Factor::new(low.address(), ranks);
    gpu.product(&product([t, n, ranks], low_factor, Factor::new(address(&b), ranks).t(), y))?;
    Ok(low)
}

/// With `dlow = scale·dy·B`: `dx = dlow·A` where dx is wanted, `dA += dlowᵀ·x` and
/// `dB += scale·dyᵀ·(x·Aᵀ)`.
pub(super) fn backward(
    dx: Option<&GpuTensor>,
    dy: &GpuTensor,
    x: &GpuTensor,
    low: &GpuTensor,
    linear: &Linear,
    parameters: Parameters,
    gradients: &GpuVector,
) -> Result<()> {
    let (gpu, t, k, n) = (x.gpu(), x.shape()[0], linear.inputs, linear.outputs);
    let Narrow { a, b, ranks } = Narrow::new(linear, parameters.values.gpu()?)?;
    let dlow = GpuTensor::new(gpu, &[t, ranks])?;
    let dy_factor = Factor::new(dy.address(), n);
    gpu.product(&product([t, ranks, n], dy_factor, Factor::new(address(&b), ranks), &dlow))?;
    if let Some(dropout) = parameters.dropout {
        dropped::backward(dx, x, &dlow, linear, &dropout, address(&a), gradients)?;
    } else {
        let dlow = Factor::new(dlow.address(), ranks);
        if let Some(dx) = dx {
            gpu.product(&product([t, k, ranks], dlow, Factor::new(address(&a), k), dx))?;
        }
        let da = gradients.address_of(&stacked_a(linear))?;
        let x = Factor::new(x.address(), k);
        gpu.product(&gradient([linear.ranks(), k, t], dlow.t(), x, da, 1.0))?;
    }
    for (columns, rank_columns, adapter) in slots(linear) {
        let dy = Factor::new(dy.address() + 2 * columns.start as u64, n).t();
        let low = Factor::new(low.address() + 2 * rank_columns.start as u64, ranks);
        let db = gradients.address_of(&adapter.b)?;
        gpu.product(&gradient([columns.len(), adapter.rank, t], dy, low, db, adapter.scale))?;
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
        beta: 1.0,
        bias: None,
    }
}

/// A product that overwrites a contiguous bf16 matrix.
pub(super) fn product(shape: [usize; 3], a: Factor, b: Factor, out: &GpuTensor) -> Product {
    Product {
        shape,
        a,
        b,
        out: out.address(),
        out_stride: shape[1],
        precision: Precision::Bf16,
        alpha: 1.0,
        beta: 0.0,
        bias: None,
    }
}
