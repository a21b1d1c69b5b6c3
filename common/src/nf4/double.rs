//! Double quantization: the blocks' absmax as 8-bit codes of a dynamic data type, in blocks of 256
//! with an absmax of their own, after their mean has been taken off (QLoRA, arXiv:2305.14314,
//! section 3).

use rayon::prelude::*;

use super::DynamicMap;

/// The number of blocks whose absmax are quantized together.
pub const NESTED_BLOCK_SIZE: usize = 256;

/// A tensor's absmax after double quantization.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Nested {
    /// The code of each block's absmax, `[blocks]`.
    pub codes: Vec<u8>,
    /// The largest magnitude of each 256 absmax less their mean, `[ceil(blocks / 256)]`.
    pub absmax: Vec<f32>,
    /// The mean of all absmax.
    pub offset: f32,
}

/// Quantizes a tensor's absmax `[blocks]`, which must be finite, on all threads.
pub(super) fn quantize(absmax: &[f32]) -> Nested {
    let sum: f64 = absmax.iter().map(|&value| f64::from(value)).sum();
    let offset = if absmax.is_empty() { 0.0 } else { (sum / absmax.len() as f64) as f32 };
    let mut codes = vec![0; absmax.len()];
    let mut nested_absmax = vec![0.0; absmax.len().div_ceil(NESTED_BLOCK_SIZE)];
    absmax
        .par_chunks(NESTED_BLOCK_SIZE)
        .zip(codes.par_chunks_mut(NESTED_BLOCK_SIZE))
        .zip(&mut nested_absmax)
        .for_each(|((block, codes), nested)| {
            *nested = block.iter().fold(0.0_f32, |most, value| most.max((value - offset).abs()));
            let reciprocal = 1.0 / nested.max(f32::MIN_POSITIVE);
            for (code, value) in codes.iter_mut().zip(block) {
                *code = DynamicMap::signed().nearest((value - offset) * reciprocal);
            }
        });
    Nested { codes, absmax: nested_absmax, offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_absmax_come_back_exactly() {
        let nested = quantize(&[0.25; 300]);
        assert_eq!(nested.offset, 0.25);
        assert_eq!(nested.absmax, [0.0, 0.0]);
        assert!(nested.codes.iter().all(|&code| DynamicMap::signed().value(code) == 0.0));
    }
}
