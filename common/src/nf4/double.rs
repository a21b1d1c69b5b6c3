//! Double quantization: the blocks' absmax as 8-bit codes of a dynamic data type, in blocks of 256
//! with an absmax of their own, after their mean has been taken off (QLoRA, arXiv:2305.14314,
//! section 3).

use std::sync::LazyLock;

use rayon::prelude::*;

/// Blocks whose absmax are quantized together.
pub const NESTED_BLOCK_SIZE: usize = 256;

/// The signed dynamic data type of "8-bit Approximations for Parallelism in Deep Learning"
/// (arXiv:1511.04561), ascending; bitsandbytes' `create_dynamic_map()` to the bit.
///
/// A code has a sign, a run of zero bits that gives the decimal exponent, and a linear fraction:
/// `10^-6` with one fraction up to `10^0` with 64 of them; 0 and 1 are added.
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| {
        let mut map = [0.0; 256];
        map[1] = 1.0;
        let mut next = 2;
        for exponent in 0..7_i32 {
            let scale = 10.0_f64.powi(exponent - 6) as f32;
            let fractions = 1 << exponent;
            for fraction in 0..fractions {
                let mean = (boundary(fraction, fractions) + boundary(fraction + 1, fractions)) / 2.0;
                map[next] = scale * mean;
                map[next + 1] = -(scale * mean);
                next += 2;
            }
        }
        map.sort_by(f32::total_cmp);
        map
    });
    &MAP
}

/// `torch.linspace(0.1, 1, fractions + 1)[index]`: from whichever end is nearer, in f32 with one rounding.
fn boundary(index: u32, fractions: u32) -> f32 {
    let step = (1.0_f32 - 0.1) / fractions as f32;
    if index < fractions.div_ceil(2) {
        step.mul_add(index as f32, 0.1)
    } else {
        (-step).mul_add((fractions - index) as f32, 1.0)
    }
}

/// The code of the nearest value of the dynamic map; of two equally near, the lower one.
fn nearest(value: f32) -> u8 {
    // Exact in f64, so that "nearest" is exact too.
    static MIDPOINTS: LazyLock<[f64; 255]> = LazyLock::new(|| {
        let map = dynamic_map();
        std::array::from_fn(|i| (f64::from(map[i]) + f64::from(map[i + 1])) / 2.0)
    });
    MIDPOINTS.partition_point(|&midpoint| midpoint < f64::from(value)) as u8
}

/// A tensor's absmax, double-quantized.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Nested {
    /// `[blocks]`
    pub codes: Vec<u8>,
    /// `[ceil(blocks / 256)]`
    pub absmax: Vec<f32>,
    pub offset: f32,
}

/// Quantizes a tensor's absmax `[blocks]`, all finite, on all threads.
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
                *code = nearest((value - offset) * reciprocal);
            }
        });
    Nested { codes, absmax: nested_absmax, offset }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_map_is_that_of_bitsandbytes() {
        let bytes: Vec<u8> = dynamic_map().iter().flat_map(|value| value.to_le_bytes()).collect();
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c");
    }

    #[test]
    fn nearest_is_the_nearest() {
        let map = dynamic_map();
        for step in -110_000..=110_000 {
            let value = step as f32 / 100_000.0;
            let distance = |&code: &usize| (f64::from(value) - f64::from(map[code])).abs();
            let expected = (0..256).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
            assert_eq!(usize::from(nearest(value)), expected, "{value}");
        }
    }

    #[test]
    fn equal_absmax_come_back_exactly() {
        let nested = quantize(&[0.25; 300]);
        assert_eq!(nested.offset, 0.25);
        assert_eq!(nested.absmax, [0.0, 0.0]);
        assert!(nested.codes.iter().all(|&code| dynamic_map()[usize::from(code)] == 0.0));
    }
}
