//! A tensor of a checkpoint: name, dtype, shape and bytes; and casts from and to f32.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use safetensors::Dtype;

use super::Bytes;
use crate::{Result, bail};

/// Elements that one thread converts at a time.
const CHUNK: usize = 1 << 18;

/// A tensor whose bytes stay in the mapped file, row-major and little-endian.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The tensor's name in the checkpoint, such as `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// The type of each element.
    pub dtype: Dtype,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The elements, whose number of bytes follows from `shape` and `dtype`.
    pub bytes: Bytes,
}

impl Tensor {
    /// A tensor in allocated memory with the elements `values`, row-major, as F32.
    pub fn from_f32(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        Self { name: name.into(), dtype: Dtype::F32, shape, bytes: bytes.into() }
    }

    /// The number of elements.
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// All elements as f32. The dtype must be BF16, F16 or F32.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.element_count()];
        self.read_f32(0..values.len(), &mut values)?;
        Ok(values)
    }

    /// The elements `range`, counted row-major, as f32. The dtype must be BF16, F16 or F32, and
    /// `out` as long as the range.
    pub fn read_f32(&self, range: Range<usize>, out: &mut [f32]) -> Result<()> {
        let width = match self.dtype {
            Dtype::BF16 | Dtype::F16 => 2,
            Dtype::F32 => 4,
            other => bail!(Unsupported, "tensor {} is {other}, expected BF16, F16 or F32", self.name),
        };
        if range.end > self.element_count() || range.len() != out.len() {
            bail!(
                Bug,
                "tensor {} has {} elements, {range:?} was asked for into {}",
                self.name,
                self.element_count(),
                out.len()
            );
        }
        let bytes = &self.bytes[range.start * width..range.end * width];
        out.par_chunks_mut(CHUNK)
            .zip(bytes.par_chunks(CHUNK * width))
            .for_each(|(out, bytes)| cast_to_f32(self.dtype, bytes, out));
        Ok(())
    }
}

/// Casts BF16, F16 or F32 to f32, which is exact.
fn cast_to_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        Dtype::BF16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        _ => {
            let mut halves = [f16::ZERO; 1024];
            for (out, bytes) in out.chunks_mut(halves.len()).zip(bytes.chunks(2 * halves.len())) {
                let halves = &mut halves[..out.len()];
                for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *half = f16::from_le_bytes(*bytes);
                }
                halves.convert_to_f32_slice(out);
            }
        }
    }
}

/// Casts f32 to BF16, F16 or F32, rounded to the nearest value and, of two equally near, to the even one.
/// `out` holds the bytes of all values. Returns the index of the first result that is not finite.
pub fn cast_from_f32(dtype: Dtype, values: &[f32], out: &mut [u8]) -> Result<Option<usize>> {
    let mut finite = true;
    match dtype {
        Dtype::F32 => {
            for (value, out) in values.iter().zip(out.as_chunks_mut::<4>().0) {
                *out = value.to_le_bytes();
                finite &= value.is_finite();
            }
        }
        Dtype::BF16 => {
            for (value, out) in values.iter().zip(out.as_chunks_mut::<2>().0) {
                let bits = value.to_bits();
                // Does not overflow: the caller hears of every exponent that is all ones.
                let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
                finite &= (rounded & 0x7f80 != 0x7f80) & (bits & 0x7f80_0000 != 0x7f80_0000);
                *out = (rounded as u16).to_le_bytes();
            }
        }
        Dtype::F16 => {
            let mut halves = [f16::ZERO; 1024];
            for (values, out) in values.chunks(halves.len()).zip(out.chunks_mut(2 * halves.len())) {
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                for (half, out) in halves.iter().zip(out.as_chunks_mut::<2>().0) {
                    *out = half.to_le_bytes();
                    finite &= half.is_finite();
                }
            }
        }
        other => bail!(Bug, "f32 cannot be stored as {other}, expected BF16, F16 or F32"),
    }
    if finite {
        return Ok(None);
    }
    let mut stored = vec![0.0; values.len()];
    cast_to_f32(dtype, out, &mut stored);
    let not_finite = |(value, stored): (&f32, &f32)| !value.is_finite() || !stored.is_finite();
    Ok(values.iter().zip(&stored).position(not_finite))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn tensor(dtype: Dtype, count: usize, bytes: Vec<u8>) -> Tensor {
        Tensor { name: "w".into(), dtype, shape: vec![count], bytes: bytes.into() }
    }

    #[test]
    fn every_half_widens_exactly() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = all.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let as_f16 = tensor(Dtype::F16, all.len(), bytes.clone()).to_f32().unwrap();
        let as_bf16 = tensor(Dtype::BF16, all.len(), bytes).to_f32().unwrap();
        for (index, &bits) in all.iter().enumerate() {
            let expected = f16::from_bits(bits).to_f32();
            assert!(as_f16[index].to_bits() == expected.to_bits() || expected.is_nan(), "f16 {bits:#x}");
            let expected = bf16::from_bits(bits).to_f32();
            assert!(as_bf16[index].to_bits() == expected.to_bits() || expected.is_nan(), "bf16 {bits:#x}");
        }
    }

    #[test]
    fn ranges_and_large_tensors() {
        let values: Vec<f32> = (0..CHUNK + 77).map(|i| i as f32).collect();
        let tensor = Tensor::from_f32("w", vec![values.len()], &values);
        assert_eq!(tensor.to_f32().unwrap(), values);
        let mut part = [0.0; 3];
        tensor.read_f32(CHUNK - 1..CHUNK + 2, &mut part).unwrap();
        assert_eq!(part, [CHUNK as f32 - 1.0, CHUNK as f32, CHUNK as f32 + 1.0]);
        assert!(tensor.read_f32(0..2, &mut part).is_err());
        assert!(tensor.read_f32(values.len()..values.len() + 3, &mut part).is_err());
    }

    #[test]
    fn narrowing_rounds_to_the_nearest_even() {
        let narrowed = |dtype, value: f32| {
            let mut out = [0; 2];
            assert_eq!(cast_from_f32(dtype, &[value], &mut out).unwrap(), None, "{value}");
            u16::from_le_bytes(out)
        };
        for exponent in (0..0x7f00_u32).step_by(7) {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(exponent << 16 | low);
                assert_eq!(narrowed(Dtype::BF16, value), bf16::from_f32(value).to_bits(), "{value:e}");
                assert_eq!(narrowed(Dtype::BF16, -value), bf16::from_f32(-value).to_bits());
            }
        }
        for value in [0.1, -65504.0, 65519.0, 1e-7, 0.333_251_95] {
            assert_eq!(narrowed(Dtype::F16, value), f16::from_f32(value).to_bits());
        }
    }

    #[test]
    fn the_first_result_that_is_not_finite_is_found() {
        let first =
            |dtype, values: &[f32]| cast_from_f32(dtype, values, &mut vec![0; 4 * values.len()]).unwrap();
        for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
            for bad in
                [f32::NAN, -f32::NAN, f32::INFINITY, f32::from_bits(0x7fff_ffff), f32::from_bits(u32::MAX)]
            {
                assert_eq!(first(dtype, &[1.0, bad, bad]), Some(1), "{dtype} {bad}");
            }
        }
        assert_eq!(first(Dtype::F16, &[1.0, 2.0, 65520.0]), Some(2), "too large for F16");
        assert_eq!(first(Dtype::BF16, &[f32::MAX]), Some(0), "rounds up to infinity");
        assert_eq!(first(Dtype::F32, &[f32::MAX]), None);
    }

    #[test]
    fn integers_are_refused_by_name() {
        let error = tensor(Dtype::I64, 1, vec![0; 8]).to_f32().unwrap_err();
        assert_eq!(error.to_string(), "tensor w is I64, expected BF16, F16 or F32");
    }
}
