//! A frozen weight on a GPU: 16-bit numbers, or 4 bits as they are stored.

use std::borrow::Cow;
use std::sync::Arc;

use cudarc::driver::CudaStream;
use rayon::prelude::*;

use super::super::{Weight, WeightSpec};
use super::SOURCE;
use crate::checkpoint::{Bytes, Tensor};
use crate::device::cuda::{
    Argument, Float16, FrozenBuffer, Gpu, GpuMemory, GpuTensor, Grid, View, ViewMut, buffer_bytes,
};
use crate::nf4::{Absmax, DynamicMap, NF4, Quantized, QuantizedSpec};
use crate::{Result, error};

/// Values that a block of threads dequantizes: 256 threads, four groups of eight.
pub(in crate::kernels) const DEQUANTIZED_BY_BLOCK: usize = 256 * 4 * 8;
/// 64-bit words of a [`part`].
pub(in crate::kernels) const PART: usize = 8;

/// A frozen matrix [N, K].
pub(super) enum Frozen {
    Dense(GpuTensor),
    /// 16-bit numbers of a block that is streamed, and their shape.
    Streamed(FrozenBuffer<u16>, [usize; 2]),
    Quantized(Box<QuantizedWeight>),
}

/// The parts of a [`Quantized`] weight, on a GPU.
pub(super) struct QuantizedWeight {
    shape: [usize; 2],
    packed: FrozenBuffer<u8>,
    /// What the 16 codes stand for.
    values: FrozenBuffer<f32>,
    absmax: FrozenBuffer<f32>,
    /// Codes of the absmax and what they stand for, where they are quantized too.
    nested: Option<(FrozenBuffer<u8>, FrozenBuffer<f32>)>,
    offset: f32,
    block_shift: i32,
    nested_shift: i32,
}

impl Frozen {
    pub(super) fn load(memory: GpuMemory, weight: &Weight) -> Result<Self> {
        match weight {
            Weight::Dense(tensor) if memory.is_streamed() => {
                let bytes = float16_bytes(tensor, memory.gpu().float16())?;
                let values = memory.concatenate(tensor.element_count(), [Ok(bytes)])?;
                Ok(Self::Streamed(values, weight.shape()))
            }
            Weight::Dense(tensor) => Ok(Self::Dense(upload(memory.gpu(), tensor)?)),
            Weight::Quantized(quantized) => {
                Ok(Self::Quantized(Box::new(QuantizedWeight::load(memory, quantized)?)))
            }
        }
    }

    /// Bytes that [`Frozen::load`] takes, on the GPU or of a slot.
    pub(super) fn bytes(spec: &WeightSpec) -> u64 {
        match spec {
            WeightSpec::Dense(shape, _) => dense_bytes(*shape),
            WeightSpec::Quantized(quantized) => QuantizedWeight::bytes(quantized),
        }
    }

    /// N
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Dense(values) => values.shape()[0],
            Self::Streamed(_, shape) => shape[0],
            Self::Quantized(weight) => weight.shape[0],
        }
    }

    /// K
    pub(super) fn columns(&self) -> usize {
        match self {
            Self::Dense(values) => values.shape()[1],
            Self::Streamed(_, shape) => shape[1],
            Self::Quantized(weight) => weight.shape[1],
        }
    }

    pub(super) fn is_quantized(&self) -> bool {
        matches!(self, Self::Quantized(_))
    }

    fn quantized(&self) -> Result<&QuantizedWeight> {
        match self {
            Self::Dense(_) | Self::Streamed(..) => {
                Err(error!(Unsupported, "a stack of quantized weights expected, found a dense one in it"))
            }
            Self::Quantized(weight) => Ok(weight),
        }
    }

    /// The 16-bit numbers [N, K], where there are any.
    pub(super) fn dense(&self) -> Result<View<'_, u16>> {
        match self {
            Self::Dense(values) => values.view(),
            Self::Streamed(values, [n, k]) => values.view()?.matrix(*n, *k),
            Self::Quantized(_) => {
                Err(error!(Unsupported, "a stack of dense weights expected, found a quantized one in it"))
            }
        }
    }

    /// Writes the weight in 16 bits to `out` [N, K].
    pub(super) fn dequantize(&self, gpu: &Gpu, stream: &CudaStream, out: ViewMut<'_, u16>) -> Result<()> {
        let weight = self.quantized()?;
        self.expect_present()?;
        let len = weight.shape[0] * weight.shape[1];
        out.expect("dequantize", weight.shape)?;
        let grid = Grid::new(len.div_ceil(DEQUANTIZED_BY_BLOCK), 256);
        let arguments =
            [&[out.into(), weight.packed.address()], &weight.scales()[..], &[Argument::int64(len)]].concat();
        // SAFETY: `dequantize(weight [len], packed [len / 2], values [16], absmax, codes, map, offset, block shifts, len)`;
        // `out` has `len` numbers, and the parts are those that `Quantized` has checked for as many. `stream` is ordered
        // with the one that computes by `Gpu::with_dequantized`, or is that one.
        #[allow(unsafe_code)]
        unsafe {
            gpu.launch_on(stream, &SOURCE, "dequantize", grid, &arguments)
        }
    }

    /// Fails where the weight is streamed and its block is not visited.
    pub(super) fn expect_present(&self) -> Result<()> {
        match self {
            Self::Dense(_) => Ok(()),
            Self::Streamed(values, _) => values.expect_present(),
            Self::Quantized(weight) => weight.packed.expect_present(),
        }
    }

    /// Whether each group of columns of a quantized weight, of which each row has a whole number, is of one block.
    pub(super) fn has_groups(&self, group: usize) -> bool {
        match self {
            Self::Dense(_) | Self::Streamed(..) => false,
            Self::Quantized(weight) => {
                weight.shape[1].is_multiple_of(group) && (1usize << weight.block_shift).is_multiple_of(group)
            }
        }
    }

    /// The weight as `quantized.cuh` has it in a `Part` that begins at column `first_column` of y: addresses that
    /// hold for as long as the weight does.
    pub(super) fn part(&self, first_column: usize) -> Result<[u64; PART]> {
        let weight = self.quantized()?;
        part(weight.packed.address(), weight.scales(), weight.shape[0], first_column)
    }
}

impl QuantizedWeight {
    fn load(memory: GpuMemory, quantized: &Quantized) -> Result<Self> {
        let (absmax, nested, offset, nested_block) = match quantized.absmax() {
            Absmax::Plain(absmax) => (absmax, None, 0.0, 1),
            Absmax::Nested { codes, map, absmax, offset, block_size } => {
                (absmax, Some((memory.store_bytes(codes)?, memory.store(&map[..])?)), *offset, *block_size)
            }
        };
        Ok(Self {
            shape: quantized.shape(),
            packed: memory.store_bytes(quantized.packed())?,
            values: memory.store(&quantized.quant_type().values()[..])?,
            absmax: memory.store(absmax)?,
            nested,
            offset,
            block_shift: shift(quantized.block_size())?,
            nested_shift: shift(nested_block)?,
        })
    }

    /// Bytes that [`QuantizedWeight::load`] takes.
    fn bytes(spec: &QuantizedSpec) -> u64 {
        let absmax = match spec.nested_blocks {
            None => buffer_bytes::<f32>(spec.blocks),
            Some(nested) => {
                let codes = buffer_bytes::<u8>(spec.blocks) + buffer_bytes::<f32>(DynamicMap::LEN);
                codes + buffer_bytes::<f32>(nested)
            }
        };
        buffer_bytes::<u8>(spec.packed_len()) + buffer_bytes::<f32>(NF4.len()) + absmax
    }

    /// Kernel arguments: code values, absmax, nested codes and their map (null where there are none), offset, block
    /// sizes as shifts.
    fn scales(&self) -> [Argument<'_>; 7] {
        let nested = self.nested.as_ref();
        [
            self.values.address(),
            self.absmax.address(),
            nested.map_or(Argument::null(), |(codes, _)| codes.address()),
            nested.map_or(Argument::null(), |(_, map)| map.address()),
            self.offset.into(),
            self.block_shift.into(),
            self.nested_shift.into(),
        ]
    }
}

/// A weight of `rows` rows as `quantized.cuh` has it in a `Part`, from the address of its codes and its
/// [`QuantizedWeight::scales`].
pub(in crate::kernels) fn part(
    packed: Argument<'_>,
    scales: [Argument<'_>; 7],
    rows: usize,
    first_column: usize,
) -> Result<[u64; PART]> {
    let two = |low: Argument<'_>, high: Argument<'_>| low.bits() | high.bits() << 32;
    let [values, absmax, codes, map, offset, block_shift, nested_shift] = scales;
    let [rows, first_column] = Argument::ints([rows, first_column])?;
    let [packed, values, absmax, codes, map] = [packed, values, absmax, codes, map].map(Argument::bits);
    let (offset, end) = (two(offset, block_shift), two(rows, first_column));
    Ok([packed, values, absmax, codes, map, offset, nested_shift.bits(), end])
}

/// A matrix of any number type on a GPU, in the GPU's.
pub(in crate::kernels) fn upload(gpu: &Arc<Gpu>, tensor: &Tensor) -> Result<GpuTensor> {
    GpuTensor::from_bits(gpu, &float16_bits(tensor, gpu.float16())?, &tensor.shape)
}

/// A matrix of any number type as 16-bit numbers.
fn float16_bits(tensor: &Tensor, float16: Float16) -> Result<Cow<'_, [u16]>> {
    let [n, k] = [tensor.shape[0], tensor.shape[1]];
    if let (true, Ok(values)) = (tensor.dtype == float16.dtype(), bytemuck::try_cast_slice(&tensor.bytes)) {
        return Ok(Cow::Borrowed(values));
    }
    let mut values = vec![0; n * k];
    values.par_chunks_mut(k.max(1)).enumerate().try_for_each(|(row, out)| -> Result<()> {
        let mut in_f32 = vec![0.0; k];
        tensor.read_f32(row * k..(row + 1) * k, &mut in_f32)?;
        out.iter_mut().zip(&in_f32).for_each(|(out, value)| *out = float16.bits(*value));
        Ok(())
    })?;
    Ok(Cow::Owned(values))
}

/// As [`float16_bits`], as bytes: those of the tensor where they need no conversion.
pub(in crate::kernels) fn float16_bytes(tensor: &Tensor, float16: Float16) -> Result<Bytes> {
    match float16_bits(tensor, float16)? {
        Cow::Borrowed(_) => Ok(tensor.bytes.clone()),
        Cow::Owned(values) => Ok(bytemuck::cast_slice(&values).to_vec().into()),
    }
}

/// Bytes that [`upload`] takes for a matrix [N, K].
pub(in crate::kernels) fn dense_bytes([n, k]: [usize; 2]) -> u64 {
    buffer_bytes::<u16>(n * k)
}

/// The logarithm of a block size, which the kernels shift by.
pub(in crate::kernels) fn shift(block_size: usize) -> Result<i32> {
    match block_size.is_power_of_two() {
        true => Ok(block_size.trailing_zeros() as i32),
        false => Err(error!(Unsupported, "a block size that is a power of 2 expected, found {block_size}")),
    }
}
