//! The 16-bit numbers that a GPU computes with. Sums are in f32 with either.

use cudarc::cublaslt::sys::cudaDataType;
use half::{bf16, f16};

use crate::checkpoint::Dtype;

/// A number type of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Float16 {
    /// The range of f32 with 8 bits of precision.
    #[default]
    Bf16,
    /// 11 bits of precision up to 65,504: gradients need a loss scale.
    Fp16,
}

impl Float16 {
    /// A number, rounded to nearest even.
    pub(crate) fn bits(self, value: f32) -> u16 {
        match self {
            Self::Bf16 => bf16::from_f32(value).to_bits(),
            Self::Fp16 => f16::from_f32(value).to_bits(),
        }
    }

    /// The number that bits stand for.
    pub(crate) fn value(self, bits: u16) -> f32 {
        match self {
            Self::Bf16 => bf16::from_bits(bits).to_f32(),
            Self::Fp16 => f16::from_bits(bits).to_f32(),
        }
    }

    /// The type as checkpoints name it.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Bf16 => Dtype::BF16,
            Self::Fp16 => Dtype::F16,
        }
    }

    /// The type as cuBLASLt names it.
    pub(super) fn data_type(self) -> cudaDataType {
        match self {
            Self::Bf16 => cudaDataType::CUDA_R_16BF,
            Self::Fp16 => cudaDataType::CUDA_R_16F,
        }
    }
}
