//! Quantizes blocks of numbers to 4-bit codes.
//!
//! The algorithm is that of bitsandbytes (`csrc/kernels.cu`, `kQuantizeBlockwise`): a block's absmax is
//! the largest magnitude, each number is multiplied by its reciprocal, and the code is the number of
//! thresholds strictly below the product. The even element of a pair goes to the high four bits.
//!
//! There are no branches and no table look-ups per number: fifteen comparisons are counted. AVX-512 would
//! not be faster than AVX2 (both take 1.5 G weights a second and core), so there are two versions.

#![allow(unsafe_code)] // vector loads, and calls of functions for instructions that were detected

use super::QuantType;
use super::simd::Simd;

/// The least absmax whose reciprocal is taken, so that a block of zeros or of denormal numbers has a
/// finite one. bitsandbytes' CPU code has the same bound.
const LEAST_ABSMAX: f32 = 1e-38;

/// The bits of the f32 infinity. The bits of NaNs, without their sign, are larger.
const INFINITE: u32 = 0x7f80_0000;

/// Quantizes whole blocks and perhaps a shorter last one.
///
/// `values` `[n]`; `packed` `[ceil(n / 2)]`; `absmax` `[ceil(n / block_size)]`, in units of the
/// values. `block_size` is even. Returns the index of the first number that is not finite.
pub(super) fn quantize(
    simd: Simd,
    quant_type: QuantType,
    block_size: usize,
    values: &[f32],
    packed: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), usize> {
    debug_assert!(block_size.is_multiple_of(2) && packed.len() == values.len().div_ceil(2));
    let blocks = values.chunks(block_size).zip(packed.chunks_mut(block_size / 2)).zip(absmax);
    for (index, ((values, packed), absmax)) in blocks.enumerate() {
        *absmax = match simd {
            Simd::Portable => block(quant_type, values, packed, pack_portable),
            // SAFETY: a value of `Simd` exists only where its instructions were detected, and every
            // processor with AVX-512 has AVX2.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 | Simd::Avx512 => unsafe { block_avx2(quant_type, values, packed) },
        };
        if absmax.to_bits() >= INFINITE {
            let within = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
            return Err(index * block_size + within);
        }
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn block_avx2(quant_type: QuantType, values: &[f32], packed: &mut [u8]) -> f32 {
    block(quant_type, values, packed, |values, reciprocal, thresholds| {
        pack_avx2(values, reciprocal, thresholds)
    })
}

/// The ranks of 32 scaled numbers among the thresholds, two in a byte.
type Ranks = [u8; 16];

/// Quantizes one block and returns its absmax, which is infinite or NaN where a number is.
#[inline(always)]
fn block(
    quant_type: QuantType,
    values: &[f32],
    packed: &mut [u8],
    pack: impl Fn(&[f32; 32], f32, &[f32; 15]) -> Ranks,
) -> f32 {
    // Magnitudes as integers have the order of the numbers, and NaNs above all.
    let absmax = values.iter().fold(0, |most, value| most.max(value.to_bits() & 0x7fff_ffff));
    let absmax = f32::from_bits(absmax);
    let reciprocal = 1.0 / absmax.max(LEAST_ABSMAX);
    let thresholds = quant_type.thresholds();
    let (values, rest) = values.as_chunks::<32>();
    let (whole, ragged) = packed.split_at_mut(16 * values.len());
    for (values, packed) in values.iter().zip(whole.as_chunks_mut::<16>().0) {
        *packed = pack(values, reciprocal, thresholds);
    }
    if !rest.is_empty() {
        // Zeros in place of what is missing; of a half-used last byte the low bits say zero.
        let mut padded = [0.0; 32];
        padded[..rest.len()].copy_from_slice(rest);
        ragged.copy_from_slice(&pack(&padded, reciprocal, thresholds)[..ragged.len()]);
    }
    if let Some(codes) = quant_type.codes_by_rank() {
        for pair in packed {
            *pair = codes[usize::from(*pair >> 4)] << 4 | codes[usize::from(*pair & 15)];
        }
    }
    absmax
}

#[inline(always)]
fn pack_portable(values: &[f32; 32], reciprocal: f32, thresholds: &[f32; 15]) -> Ranks {
    let scaled = values.map(|value| value * reciprocal);
    let mut ranks = [0_u32; 32];
    for threshold in thresholds {
        for (rank, scaled) in ranks.iter_mut().zip(&scaled) {
            *rank += u32::from(scaled > threshold);
        }
    }
    std::array::from_fn(|i| (ranks[2 * i] << 4 | ranks[2 * i + 1]) as u8)
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn pack_avx2(values: &[f32; 32], reciprocal: f32, thresholds: &[f32; 15]) -> Ranks {
    use std::arch::x86_64::*;
    let reciprocal = _mm256_set1_ps(reciprocal);
    let scaled: [__m256; 4] = std::array::from_fn(|i| {
        // SAFETY: the array has 32 numbers, of which these are the i-th eight.
        _mm256_mul_ps(unsafe { _mm256_loadu_ps(values.as_ptr().add(8 * i)) }, reciprocal)
    });
    let mut ranks = [_mm256_setzero_si256(); 4];
    for &threshold in thresholds {
        let threshold = _mm256_set1_ps(threshold);
        for (rank, &scaled) in ranks.iter_mut().zip(&scaled) {
            // True is -1.
            let above = _mm256_cmp_ps::<_CMP_GT_OQ>(scaled, threshold);
            *rank = _mm256_sub_epi32(*rank, _mm256_castps_si256(above));
        }
    }
    // The lowest byte of each pair of ranks, to the front of each half.
    let lowest = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    ));
    let mut packed = [0; 16];
    for (ranks, packed) in ranks.into_iter().zip(packed.as_chunks_mut::<4>().0) {
        let pairs = _mm256_or_si256(_mm256_slli_epi64::<4>(ranks), _mm256_srli_epi64::<32>(ranks));
        let bytes = _mm256_shuffle_epi8(pairs, lowest);
        let halves = [_mm256_extract_epi16::<0>(bytes), _mm256_extract_epi16::<8>(bytes)];
        let [[a, b], [c, d]] = halves.map(|half| (half as u16).to_le_bytes());
        *packed = [a, b, c, d];
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn codes(quant_type: QuantType, block_size: usize, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let mut all = Simd::available().into_iter().map(|simd| {
            let mut packed = vec![0; values.len().div_ceil(2)];
            let mut absmax = vec![0.0; values.len().div_ceil(block_size)];
            quantize(simd, quant_type, block_size, values, &mut packed, &mut absmax).unwrap();
            (packed, absmax)
        });
        let first = all.next().unwrap();
        assert!(all.all(|other| other == first), "all instruction sets give the same bits");
        let unpacked = first.0.iter().flat_map(|pair| [pair >> 4, pair & 15]).take(values.len()).collect();
        (unpacked, first.1)
    }

    /// The definition, one number at a time.
    fn expected(quant_type: QuantType, block_size: usize, values: &[f32]) -> Vec<u8> {
        let block = |block: &[f32]| {
            let absmax = block.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            let scaled = block.iter().map(|value| value * (1.0 / absmax.max(LEAST_ABSMAX)));
            let rank = |scaled: f32| quant_type.thresholds().iter().filter(|&&t| scaled > t).count();
            scaled
                .map(|scaled| quant_type.codes_by_rank().map_or(rank(scaled) as u8, |c| c[rank(scaled)]))
                .collect::<Vec<u8>>()
        };
        values.chunks(block_size).flat_map(block).collect()
    }

    #[test]
    fn a_threshold_belongs_to_the_value_below_it() {
        for quant_type in [QuantType::Nf4, QuantType::Fp4] {
            for (rank, &threshold) in quant_type.thresholds().iter().enumerate() {
                // A block whose absmax is 1, so that the numbers are compared as they are.
                let values = [1.0, threshold.next_down(), threshold, threshold.next_up()];
                let (found, absmax) = codes(quant_type, 64, &values);
                let code = |rank: usize| quant_type.codes_by_rank().map_or(rank as u8, |codes| codes[rank]);
                assert_eq!(found[1..], [code(rank), code(rank), code(rank + 1)], "{quant_type} {rank}");
                assert_eq!(absmax, [1.0]);
            }
        }
    }

    #[test]
    fn zeros_and_denormals() {
        let tiny = f32::from_bits(1);
        let (found, absmax) = codes(QuantType::Nf4, 64, &[0.0, -0.0, 0.0]);
        assert_eq!((found, absmax), (vec![7; 3], vec![0.0]));
        let (found, absmax) = codes(QuantType::Nf4, 64, &[tiny, -tiny, 0.0]);
        assert_eq!((found, absmax), (vec![7; 3], vec![tiny]));
        let (found, _) = codes(QuantType::Nf4, 64, &[f32::MAX, -f32::MAX, f32::MAX / 3.0]);
        assert_eq!(found, [15, 0, 11]);
    }

    #[test]
    fn the_first_number_that_is_not_finite_is_found() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            for simd in Simd::available() {
                let mut values = vec![0.5; 300];
                values[260] = bad;
                values[261] = bad;
                let (mut packed, mut absmax) = (vec![0; 150], vec![0.0; 5]);
                let found = quantize(simd, QuantType::Nf4, 64, &values, &mut packed, &mut absmax);
                assert_eq!(found, Err(260));
            }
        }
    }

    proptest! {
        #[test]
        fn every_instruction_set_follows_the_definition(
            values in prop::collection::vec(-2.0_f32..2.0, 0..400),
            block_size in prop::sample::select(vec![64, 128, 4096]),
            quant_type in prop::sample::select(vec![QuantType::Nf4, QuantType::Fp4]),
        ) {
            let (found, _) = codes(quant_type, block_size, &values);
            prop_assert_eq!(found, expected(quant_type, block_size, &values));
        }
    }
}
