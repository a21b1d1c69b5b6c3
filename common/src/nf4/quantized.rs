//! A quantized linear weight in memory.

use rayon::prelude::*;

use super::simd::Simd;
use super::{DynamicMap, NESTED_BLOCK_SIZE, QuantType, block, double};
use crate::checkpoint::{Bytes, Dtype, Tensor};
use crate::{Result, bail};

/// The settings of 4-bit quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    /// The 4-bit type: NF4 or FP4.
    pub quant_type: QuantType,
    /// The number of elements that share an absmax; one of [`super::BLOCK_SIZES`].
    pub block_size: usize,
    /// Whether the absmax are quantized too.
    pub double_quant: bool,
}

impl Default for Scheme {
    /// NF4 in blocks of 64 with double quantization, as QLoRA has it.
    fn default() -> Self {
        Self { quant_type: QuantType::Nf4, block_size: 64, double_quant: true }
    }
}

/// A linear weight `[N, K]` in 4 bits, row-major. Blocks continue across the ends of rows.
///
/// ```
/// use common::checkpoint::Tensor;
/// use common::nf4::{Quantized, Scheme};
///
/// let values: Vec<f32> = (0..128).map(|i| i as f32 / 64.0 - 1.0).collect();
/// let weight = Tensor::from_f32("up_proj.weight", vec![2, 64], &values);
/// let quantized = Quantized::quantize(&weight, Scheme::default())?;
/// assert_eq!(quantized.shape(), [2, 64]);
/// assert_eq!(quantized.packed().len(), 64, "two elements a byte");
///
/// let mut row = [0.0; 64];
/// quantized.dequantize_rows(1..2, &mut row);
/// let error = row.iter().zip(&values[64..]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
/// assert!(error < 0.15, "NF4 has sixteen values a block: {error}");
/// # Ok::<(), common::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Quantized {
    pub(super) shape: [usize; 2],
    pub(super) quant_type: QuantType,
    pub(super) block_size: usize,
    pub(super) dtype: Dtype,
    /// The codes, `[ceil(N K / 2)]`, with the even element of a pair in the high four bits.
    pub(super) packed: Bytes,
    pub(super) absmax: Absmax,
}

/// The largest magnitudes of the blocks, plain or quantized themselves.
#[derive(Debug, Clone)]
pub enum Absmax {
    /// The absmax of each block, `[blocks]`.
    Plain(Vec<f32>),
    /// Double-quantized: `map[code] · absmax[block / block_size] + offset`.
    Nested {
        /// The code of each block's absmax, `[blocks]`.
        codes: Bytes,
        /// The value of each code.
        map: Box<[f32; 256]>,
        /// The scale of each group of codes, `[ceil(blocks / block_size)]`.
        absmax: Vec<f32>,
        /// The mean of all absmax.
        offset: f32,
        /// The number of blocks whose codes share a scale.
        block_size: usize,
    },
}

/// The sizes of the parts of a quantized weight, which are known before any of them is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizedSpec {
    /// The shape of the weight, `[N, K]`.
    pub shape: [usize; 2],
    /// The number of blocks, each of which has an absmax.
    pub blocks: usize,
    /// The number of groups of absmax under double quantization.
    pub nested_blocks: Option<usize>,
}

impl QuantizedSpec {
    /// The sizes that quantizing a weight `[N, K]` will give.
    pub fn new(shape: [usize; 2], scheme: Scheme) -> Self {
        let blocks = (shape[0] * shape[1]).div_ceil(scheme.block_size);
        let nested_blocks = scheme.double_quant.then(|| blocks.div_ceil(NESTED_BLOCK_SIZE));
        Self { shape, blocks, nested_blocks }
    }

    /// The number of bytes of the codes.
    pub fn packed_len(&self) -> usize {
        (self.shape[0] * self.shape[1]).div_ceil(2)
    }

    /// The number of bytes that the weight takes in memory.
    pub fn bytes(&self) -> u64 {
        let absmax = match self.nested_blocks {
            None => size_of::<f32>() * self.blocks,
            Some(nested) => self.blocks + size_of::<f32>() * (DynamicMap::LEN + nested),
        };
        (self.packed_len() + absmax) as u64
    }
}

/// Elements that a thread casts to f32 at a time; every block size divides it.
const PIECE: usize = 4096;
/// Elements that a thread takes at a time.
pub(super) const CHUNK: usize = 1 << 18;

impl Quantized {
    /// Quantizes a BF16, F16 or F32 weight of two dimensions, on all threads. Fails where an element is
    /// not finite, naming the tensor and the element.
    pub fn quantize(tensor: &Tensor, scheme: Scheme) -> Result<Self> {
        Self::quantize_with(Simd::best(), tensor, scheme)
    }

    fn quantize_with(simd: Simd, tensor: &Tensor, scheme: Scheme) -> Result<Self> {
        let Scheme { quant_type, block_size, double_quant } = scheme;
        let Ok(shape) = <[usize; 2]>::try_from(tensor.shape.as_slice()) else {
            bail!(
                Unsupported,
                "tensor {} has shape {:?}, expected two dimensions",
                tensor.name,
                tensor.shape
            );
        };
        if !super::BLOCK_SIZES.contains(&block_size) {
            bail!(Bug, "unknown block size {block_size}, expected one of {:?}", super::BLOCK_SIZES);
        }
        let count = tensor.element_count();
        let mut packed = vec![0; count.div_ceil(2)];
        let mut absmax = vec![0.0; count.div_ceil(block_size)];
        packed
            .par_chunks_mut(CHUNK / 2)
            .zip(absmax.par_chunks_mut(CHUNK / block_size))
            .enumerate()
            .try_for_each(|(chunk, (packed, absmax))| {
                let mut values = [0.0; PIECE];
                let pieces = packed.chunks_mut(PIECE / 2).zip(absmax.chunks_mut(PIECE / block_size));
                for (piece, (packed, absmax)) in pieces.enumerate() {
                    let start = chunk * CHUNK + piece * PIECE;
                    let values = &mut values[..PIECE.min(count - start)];
                    tensor.read_f32(start..start + values.len(), values)?;
                    if let Err(index) = block::quantize(simd, quant_type, block_size, values, packed, absmax)
                    {
                        let (row, column) = ((start + index) / shape[1], (start + index) % shape[1]);
                        bail!(Malformed, "tensor {} has {} at [{row}, {column}]", tensor.name, values[index]);
                    }
                }
                Ok(())
            })?;
        let absmax = if double_quant {
            let nested = double::quantize(&absmax);
            Absmax::Nested {
                codes: nested.codes.into(),
                map: Box::new(DynamicMap::signed().values),
                absmax: nested.absmax,
                offset: nested.offset,
                block_size: NESTED_BLOCK_SIZE,
            }
        } else {
            Absmax::Plain(absmax)
        };
        Ok(Self { shape, quant_type, block_size, dtype: tensor.dtype, packed: packed.into(), absmax })
    }

    /// The shape `[N, K]`: outputs and inputs of the linear layer.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The 4-bit type: NF4 or FP4.
    pub fn quant_type(&self) -> QuantType {
        self.quant_type
    }

    /// The number of elements that share an absmax.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// The dtype that the weight had before, to which dequantized elements are rounded.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Changes the dtype to which dequantized elements are rounded. bitsandbytes' matrix products
    /// dequantize to the dtype of the activations, so a model that computes in f32 does not round them.
    pub fn with_dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// The codes, two in a byte with the even element in the high four bits: `[ceil(N K / 2)]`.
    pub fn packed(&self) -> &Bytes {
        &self.packed
    }

    /// The largest magnitudes of the blocks as they are stored.
    pub fn absmax(&self) -> &Absmax {
        &self.absmax
    }

    /// The settings that the weight was quantized with.
    pub fn scheme(&self) -> Scheme {
        let double_quant = matches!(self.absmax, Absmax::Nested { .. });
        Scheme { quant_type: self.quant_type, block_size: self.block_size, double_quant }
    }

    /// The number of blocks.
    pub fn block_count(&self) -> usize {
        (self.shape[0] * self.shape[1]).div_ceil(self.block_size)
    }

    /// The largest magnitude of a block.
    #[inline(always)]
    pub fn absmax_of(&self, block: usize) -> f32 {
        match &self.absmax {
            Absmax::Plain(absmax) => absmax[block],
            Absmax::Nested { codes, map, absmax, offset, block_size } => {
                map[usize::from(codes[block])] * absmax[block / block_size] + offset
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    /// What bitsandbytes defines, one number at a time.
    fn dequantized(weight: &Quantized) -> Vec<f32> {
        let count = weight.shape[0] * weight.shape[1];
        let code = |i: usize| {
            if i.is_multiple_of(2) { weight.packed[i / 2] >> 4 } else { weight.packed[i / 2] & 15 }
        };
        (0..count)
            .map(|i| {
                let value = weight.quant_type.values()[usize::from(code(i))]
                    * weight.absmax_of(i / weight.block_size);
                match weight.dtype {
                    Dtype::BF16 => bf16::from_f32(value).to_f32(),
                    Dtype::F16 => f16::from_f32(value).to_f32(),
                    _ => value,
                }
            })
            .collect()
    }

    fn scheme() -> impl Strategy<Value = Scheme> {
        let quant_type = prop::sample::select(vec![QuantType::Nf4, QuantType::Fp4]);
        let block_size = prop::sample::select(vec![32, 64, 128]);
        (quant_type, block_size, any::<bool>()).prop_map(|(quant_type, block_size, double_quant)| Scheme {
            quant_type,
            block_size,
            double_quant,
        })
    }

    proptest! {
        #[test]
        fn rows_are_dequantized_alike_by_every_instruction_set(
            rows in 1..9_usize,
            columns in 1..90_usize,
            scheme in scheme(),
            dtype in prop::sample::select(vec![Dtype::BF16, Dtype::F16, Dtype::F32]),
            seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let values: Vec<f32> = (0..rows * columns)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 40) as f32 / (1 << 23) as f32 - 1.0
                })
                .collect();
            let tensor = Tensor::from_f32("w", vec![rows, columns], &values);
            let weight = Quantized::quantize(&tensor, scheme).unwrap().with_dtype(dtype);
            let expected = dequantized(&weight);
            for simd in Simd::available() {
                for start in 0..rows {
                    for end in start..=rows {
                        let mut out = vec![f32::NAN; (end - start) * columns];
                        weight.dequantize_rows_with(simd, start..end, &mut out);
                        prop_assert_eq!(&out, &expected[start * columns..end * columns]);
                    }
                }
            }
            prop_assert_eq!(weight.dequantize(), expected);
        }

        #[test]
        fn no_number_moves_further_than_half_the_widest_gap(
            values in prop::collection::vec(-3.0_f32..3.0, 1..500),
            scheme in scheme(),
        ) {
            let tensor = Tensor::from_f32("w", vec![1, values.len()], &values);
            let weight = Quantized::quantize(&tensor, scheme).unwrap();
            // NF4's widest gap is 0.304, FP4's 0.333; absmax itself may be off by double quantization.
            for (i, (found, value)) in weight.dequantize().iter().zip(&values).enumerate() {
                let absmax = weight.absmax_of(i / scheme.block_size);
                prop_assert!((found - value).abs() <= 0.17 * absmax + 0.1, "{} {}", found, value);
            }
        }
    }

    #[test]
    fn large_tensors_are_cut_without_a_seam() {
        let (rows, columns) = (37, 9001);
        let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.37).sin()).collect();
        let tensor = Tensor::from_f32("w", vec![rows, columns], &values);
        let scheme = Scheme { double_quant: false, ..Scheme::default() };
        let weight = Quantized::quantize(&tensor, scheme).unwrap();
        let (mut packed, mut absmax) =
            (vec![0; values.len().div_ceil(2)], vec![0.0; values.len().div_ceil(64)]);
        block::quantize(Simd::Portable, QuantType::Nf4, 64, &values, &mut packed, &mut absmax).unwrap();
        assert!(*weight.packed == *packed);
        assert!(matches!(&weight.absmax, Absmax::Plain(found) if *found == absmax));
        assert_eq!(weight.dequantize(), dequantized(&weight));
    }

    #[test]
    fn a_number_that_is_not_finite_is_named() {
        let mut values = vec![0.5; 3 * 5000];
        values[2 * 5000 + 17] = f32::NEG_INFINITY;
        let tensor = Tensor::from_f32("model.w", vec![3, 5000], &values);
        let error = Quantized::quantize(&tensor, Scheme::default()).unwrap_err().to_string();
        assert_eq!(error, "tensor model.w has -inf at [2, 17]");
    }
}
