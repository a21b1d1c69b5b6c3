//! A frozen weight, as the checkpoint holds it: never copied, dequantized to f32 piece by piece.

use std::ops::Range;

use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::device::cuda::Float16;
use crate::nf4::{Quantized, QuantizedSpec, Scheme};
use crate::{Result, error};

/// A frozen matrix [N, K].
#[derive(Debug, Clone)]
pub enum Weight {
    /// bf16, f16 or f32.
    Dense(Tensor),
    /// bitsandbytes' 4-bit blocks.
    Quantized(Quantized),
}

/// What a weight will be, before any of it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WeightSpec {
    /// Numbers of this type, [N, K].
    Dense([usize; 2], Dtype),
    /// bitsandbytes' 4-bit blocks.
    Quantized(QuantizedSpec),
}

impl WeightSpec {
    /// What [`Weight::load`] would find, from the header alone.
    pub(crate) fn find(checkpoint: &Checkpoint, name: &str, expected: [usize; 2]) -> Result<Self> {
        if let Some(quantized) = QuantizedSpec::find(checkpoint, name, expected)? {
            return Ok(Self::Quantized(quantized));
        }
        let tensor = checkpoint.tensor(name)?;
        check_shape(name, expected, &tensor.shape)?;
        check_dtype(&tensor)?;
        Ok(Self::Dense(expected, tensor.dtype))
    }

    /// What [`Weight::quantized`] makes of it.
    pub(crate) fn quantized(self, scheme: Scheme) -> Self {
        match self {
            Self::Dense(shape, _) => Self::Quantized(QuantizedSpec::new(shape, scheme)),
            quantized => quantized,
        }
    }

    /// [N, K]
    pub(crate) fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(shape, _) => *shape,
            Self::Quantized(quantized) => quantized.shape,
        }
    }

    /// Numbers of the weight.
    pub(crate) fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// The bytes that the weight takes on the host.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Dense(_, dtype) => (self.len() * dtype.bitsize() / 8) as u64,
            Self::Quantized(quantized) => quantized.bytes(),
        }
    }
}

/// The weight `name` is as large as config.json makes it.
fn check_shape(name: &str, expected: [usize; 2], found: &[usize]) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(error!(Malformed, "tensor {name}: shape {expected:?} expected, found {found:?}")),
    }
}

/// Fails unless the weight is of numbers that f32 holds exactly.
fn check_dtype(tensor: &Tensor) -> Result<()> {
    match tensor.dtype {
        Dtype::BF16 | Dtype::F16 | Dtype::F32 => Ok(()),
        other => Err(error!(Unsupported, "tensor {} is {other}, expected BF16, F16 or F32", tensor.name)),
    }
}

impl Weight {
    /// The weight `name` of a checkpoint, which must be [n, k].
    pub fn load(checkpoint: &Checkpoint, name: &str, expected: [usize; 2]) -> Result<Self> {
        let weight = match Quantized::load(checkpoint, name)? {
            // As in bitsandbytes, dequantized to the type that computes, whatever it was quantized from.
            Some(quantized) => Self::Quantized(quantized.with_dtype(Dtype::F32)),
            None => Self::Dense(checkpoint.tensor(name)?),
        };
        match &weight {
            Self::Dense(tensor) => {
                check_shape(name, expected, &tensor.shape)?;
                check_dtype(tensor)?;
            }
            Self::Quantized(quantized) => check_shape(name, expected, &quantized.shape())?,
        }
        Ok(weight)
    }

    /// The weight in 4 bits; it stays as it is where it is in 4 bits already.
    pub fn quantized(self, scheme: Scheme) -> Result<Self> {
        match self {
            Self::Dense(tensor) => {
                Ok(Self::Quantized(Quantized::quantize(&tensor, scheme)?.with_dtype(Dtype::F32)))
            }
            quantized => Ok(quantized),
        }
    }

    /// [N, K]
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(tensor) => [tensor.shape[0], tensor.shape[1]],
            Self::Quantized(quantized) => quantized.shape(),
        }
    }

    /// The weight, where it is dense.
    pub(in crate::kernels) fn dense(&self) -> Option<&Tensor> {
        match self {
            Self::Dense(tensor) => Some(tensor),
            Self::Quantized(_) => None,
        }
    }

    /// The weight, where it is quantized.
    pub(in crate::kernels) fn as_quantized(&self) -> Option<&Quantized> {
        match self {
            Self::Dense(_) => None,
            Self::Quantized(quantized) => Some(quantized),
        }
    }

    /// A row as a GPU's 16-bit numbers, [K].
    pub(crate) fn read_row_float16(&self, row: usize, float16: Float16, out: &mut [u16]) -> Result<()> {
        if let Self::Dense(tensor) = self
            && tensor.dtype == float16.dtype()
        {
            let size = 2 * tensor.shape[1];
            bytemuck::cast_slice_mut(out).copy_from_slice(&tensor.bytes[row * size..(row + 1) * size]);
            return Ok(());
        }
        let mut values = vec![0.0; out.len()];
        self.read_rows(row..row + 1, &mut values)?;
        out.iter_mut().zip(values).for_each(|(out, value)| *out = float16.bits(value));
        Ok(())
    }

    /// Rows `rows` as f32, [rows.len(), K].
    pub fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Dense(tensor) => {
                let k = tensor.shape[1];
                tensor.read_f32(rows.start * k..rows.end * k, out)
            }
            Self::Quantized(quantized) => {
                quantized.dequantize_rows(rows, out);
                Ok(())
            }
        }
    }
}
