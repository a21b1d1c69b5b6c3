//! A frozen weight on a GPU: bf16, or 4 bits as they are stored.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};
use half::bf16;
use rayon::prelude::*;

use super::super::Weight;
use super::SOURCE;
use crate::checkpoint::Dtype;
use crate::device::cuda::{Argument, Gpu, GpuTensor, Grid, address};
use crate::nf4::{Absmax, Quantized};
use crate::{Result, error};

/// Values that a block of threads widens: 256 threads, four groups of eight.
const WIDENED_BY_BLOCK: usize = 256 * 4 * 8;
/// Rows of a weight from which a warp takes two at a time: fewer would leave processors idle.
const NARROW: usize = 2048;
/// Warps of a block that multiplies a few rows of x.
const WARPS_OF_BLOCK: usize = 4;

/// A frozen matrix [N, K].
pub(super) enum Frozen {
    Dense { values: CudaSlice<u8>, shape: [usize; 2] },
    Quantized(Box<QuantizedWeight>),
}

/// See [`Quantized`], whose parts these are.
pub(super) struct QuantizedWeight {
    shape: [usize; 2],
    packed: CudaSlice<u8>,
    /// What the 16 codes stand for.
    values: CudaSlice<f32>,
    absmax: CudaSlice<f32>,
    /// Codes of the absmax and what they stand for, where they are quantized too.
    nested: Option<(CudaSlice<u8>, CudaSlice<f32>)>,
    offset: f32,
    block_shift: i32,
    nested_shift: i32,
}

impl Frozen {
    pub(super) fn upload(gpu: &Arc<Gpu>, weight: &Weight) -> Result<Self> {
        match weight {
            Weight::Dense(tensor) if tensor.dtype == Dtype::BF16 => {
                Ok(Self::Dense { values: gpu.upload(&tensor.bytes[..])?, shape: weight.shape() })
            }
            Weight::Dense(tensor) => {
                let [n, k] = weight.shape();
                let mut values = vec![bf16::ZERO; n * k];
                values.par_chunks_mut(k.max(1)).enumerate().try_for_each(|(row, out)| -> Result<()> {
                    let mut wide = vec![0.0; k];
                    tensor.read_f32(row * k..(row + 1) * k, &mut wide)?;
                    out.iter_mut().zip(&wide).for_each(|(out, value)| *out = bf16::from_f32(*value));
                    Ok(())
                })?;
                Ok(Self::Dense {
                    values: gpu.upload(bytemuck::cast_slice::<bf16, u8>(&values))?,
                    shape: [n, k],
                })
            }
            Weight::Quantized(quantized) => {
                Ok(Self::Quantized(Box::new(QuantizedWeight::upload(gpu, quantized)?)))
            }
        }
    }

    /// N
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Dense { shape, .. } => shape[0],
            Self::Quantized(weight) => weight.shape[0],
        }
    }

    /// K
    pub(super) fn columns(&self) -> usize {
        match self {
            Self::Dense { shape, .. } => shape[1],
            Self::Quantized(weight) => weight.shape[1],
        }
    }

    pub(super) fn is_quantized(&self) -> bool {
        matches!(self, Self::Quantized(_))
    }

    fn quantized(&self) -> Result<&QuantizedWeight> {
        match self {
            Self::Dense { .. } => {
                Err(error!("a stack of quantized weights expected, found a dense one in it"))
            }
            Self::Quantized(weight) => Ok(weight),
        }
    }

    /// Of the bf16 numbers, where there are any.
    pub(super) fn dense_address(&self) -> Result<u64> {
        match self {
            Self::Dense { values, .. } => Ok(address(values)),
            Self::Quantized(_) => {
                Err(error!("a stack of dense weights expected, found a quantized one in it"))
            }
        }
    }

    /// Widens the weight to bf16 [N, K] at `out`.
    pub(super) fn dequantize(&self, gpu: &Gpu, stream: &CudaStream, out: u64) -> Result<()> {
        let weight = self.quantized()?;
        let len = weight.shape[0] * weight.shape[1];
        let grid = Grid::new(len.div_ceil(WIDENED_BY_BLOCK), 256);
        let arguments =
            [&[out.into(), (&weight.packed).into()], &weight.scales()[..], &[(len as i64).into()]];
        gpu.launch_on(stream, &SOURCE, "dequantize", grid, &arguments.concat())
    }

    /// Columns `columns` of y [T, ΣN] from x [T, K], for few rows of x; adds to what y holds where `adds`
    /// is set.
    pub(super) fn multiply_rows(
        &self,
        y: &GpuTensor,
        columns: Range<usize>,
        x: &GpuTensor,
        bias: Option<u64>,
        adds: bool,
    ) -> Result<()> {
        let weight = self.quantized()?;
        let [n, k] = weight.shape;
        let (tokens, y_stride) = (x.shape()[0], y.shape()[1]);
        let mut token = 0;
        while token < tokens {
            // Rows of x, rows of the weight that a warp takes, and the kernel that does.
            let (rows, by_warp, kernel) = match tokens - token {
                1 if n < NARROW => (1, 1, "quantized_rows_1x1"),
                1 => (1, 2, "quantized_rows_1x2"),
                2 | 3 => (2, 2, "quantized_rows_2x2"),
                4..=7 => (4, 1, "quantized_rows_4x1"),
                _ => (8, 1, "quantized_rows_8x1"),
            };
            let out = y.address() + 2 * (token * y_stride + columns.start) as u64;
            let from = x.address() + 2 * (token * k) as u64;
            let [out_stride, from_stride, n_rows, depth] =
                [y_stride, k, n, k].map(|size| Argument::from(size as i32));
            let places = [out.into(), out_stride, from.into(), from_stride, (&weight.packed).into()];
            let rest = [Argument::address(bias), n_rows, depth, i32::from(adds).into()];
            let arguments = [&places[..], &weight.scales()[..], &rest[..]].concat();
            let grid = Grid::new(n.div_ceil(WARPS_OF_BLOCK * by_warp), 32 * WARPS_OF_BLOCK);
            x.gpu().launch(&SOURCE, kernel, grid, &arguments)?;
            token += rows;
        }
        Ok(())
    }
}

impl QuantizedWeight {
    fn upload(gpu: &Arc<Gpu>, quantized: &Quantized) -> Result<Self> {
        let (absmax, nested, offset, nested_block) = match quantized.absmax() {
            Absmax::Plain(absmax) => (absmax, None, 0.0, 1),
            Absmax::Nested { codes, map, absmax, offset, block_size } => {
                (absmax, Some((gpu.upload(&codes[..])?, gpu.upload(&map[..])?)), *offset, *block_size)
            }
        };
        Ok(Self {
            shape: quantized.shape(),
            packed: gpu.upload(&quantized.packed()[..])?,
            values: gpu.upload(quantized.quant_type().values())?,
            absmax: gpu.upload(absmax)?,
            nested,
            offset,
            block_shift: shift(quantized.block_size())?,
            nested_shift: shift(nested_block)?,
        })
    }

    /// As the kernels take them.
    fn scales(&self) -> [Argument; 7] {
        let nested = |part: fn(&(CudaSlice<u8>, CudaSlice<f32>)) -> u64| {
            Argument::address(self.nested.as_ref().map(part))
        };
        [
            (&self.values).into(),
            (&self.absmax).into(),
            nested(|(codes, _)| address(codes)),
            nested(|(_, map)| address(map)),
            self.offset.into(),
            self.block_shift.into(),
            self.nested_shift.into(),
        ]
    }
}

/// The logarithm of a block size, which the kernels shift by.
fn shift(block_size: usize) -> Result<i32> {
    match block_size.is_power_of_two() {
        true => Ok(block_size.trailing_zeros() as i32),
        false => Err(error!("a block size that is a power of 2 expected, found {block_size}")),
    }
}
