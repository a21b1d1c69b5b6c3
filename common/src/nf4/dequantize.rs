//! Dequantizes 4-bit codes to f32: the inner loop of training on a CPU.
//!
//! A block has only sixteen different results, so they are computed and rounded once, and the codes pick
//! among them: one register permutation with AVX-512, two with AVX2.

#![allow(unsafe_code)] // vector loads and stores; each use names the lengths it rests on

use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use super::QuantType;
use super::quantized::{CHUNK, Quantized};
use super::simd::Simd;
use crate::checkpoint::Dtype;

/// The value of each code within one block, as f32.
type Table = [f32; 16];

/// Computes `values · absmax` in f32, rounded to the dtype that the tensor had, as bitsandbytes'
/// `dequantize_4bit` does.
#[inline(always)]
fn table(quant_type: QuantType, absmax: f32, dtype: Dtype) -> Table {
    let products = quant_type.values().map(|value| value * absmax);
    match dtype {
        Dtype::BF16 => products.map(round_to_bf16),
        Dtype::F16 => products.map(|value| f16::from_f32(value).to_f32()),
        _ => products,
    }
}

/// Rounds to the nearest bf16, of two equally near to the even one. The value must not be NaN.
#[inline(always)]
fn round_to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

impl Quantized {
    /// Dequantizes whole rows into `out` `[rows, K]` as bitsandbytes' `dequantize_4bit` does: rounded to
    /// [`Quantized::dtype`], then cast to f32. It runs on the calling thread and allocates nothing; callers
    /// divide the rows among threads.
    ///
    /// # Panics
    /// Panics where `rows` reaches past N, or `out` is not as long as the rows.
    pub fn dequantize_rows(&self, rows: Range<usize>, out: &mut [f32]) {
        self.dequantize_rows_with(Simd::best(), rows, out);
    }

    pub(super) fn dequantize_rows_with(&self, simd: Simd, rows: Range<usize>, out: &mut [f32]) {
        let [row_count, columns] = self.shape;
        assert!(rows.start <= rows.end && rows.end <= row_count, "rows {rows:?} of {row_count}");
        assert_eq!(out.len(), rows.len() * columns, "rows {rows:?} of {columns} columns");
        elements(simd, self, rows.start * columns..rows.end * columns, out);
    }

    /// Dequantizes the whole weight `[N, K]` on all threads.
    pub fn dequantize(&self) -> Vec<f32> {
        let [rows, columns] = self.shape;
        let mut out = vec![0.0; rows * columns];
        let rows_each = (CHUNK / columns.max(1)).max(1);
        out.par_chunks_mut((rows_each * columns).max(1)).enumerate().for_each(|(chunk, out)| {
            let start = chunk * rows_each;
            self.dequantize_rows(start..start + out.len() / columns, out);
        });
        out
    }
}

/// Dequantizes the elements `range`, counted row-major, into `out`, which is as long as the range. It
/// allocates nothing.
fn elements(simd: Simd, weight: &Quantized, range: Range<usize>, out: &mut [f32]) {
    match simd {
        Simd::Portable => each_block(weight, range, out, look_up_portable),
        // SAFETY: a value of `Simd` exists only where its instructions were detected.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { elements_avx2(weight, range, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { elements_avx512(weight, range, out) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn elements_avx2(weight: &Quantized, range: Range<usize>, out: &mut [f32]) {
    each_block(weight, range, out, |table, packed, out| look_up_avx2(table, packed, out));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn elements_avx512(weight: &Quantized, range: Range<usize>, out: &mut [f32]) {
    each_block(weight, range, out, |table, packed, out| look_up_avx512(table, packed, out));
}

/// Calls `look_up` for the bytes of each block in `range`, which may begin and end in the middle of a byte.
#[inline(always)]
fn each_block(
    weight: &Quantized,
    range: Range<usize>,
    mut out: &mut [f32],
    look_up: impl Fn(&Table, &[u8], &mut [f32]),
) {
    let packed = weight.packed();
    let mut position = range.start;
    while position < range.end {
        let block = position / weight.block_size();
        let end = range.end.min((block + 1) * weight.block_size());
        let table = table(weight.quant_type(), weight.absmax_of(block), weight.dtype());
        let (mut now, later) = std::mem::take(&mut out).split_at_mut(end - position);
        if !position.is_multiple_of(2) {
            now[0] = table[usize::from(packed[position / 2] & 15)];
            now = &mut now[1..];
            position += 1;
        }
        let (pairs, last) = now.split_at_mut(now.len() / 2 * 2);
        look_up(&table, &packed[position / 2..position / 2 + pairs.len() / 2], pairs);
        if let [last] = last {
            *last = table[usize::from(packed[(end - 1) / 2] >> 4)];
        }
        position = end;
        out = later;
    }
}

#[inline(always)]
fn look_up_portable(table: &Table, packed: &[u8], out: &mut [f32]) {
    for (&pair, out) in packed.iter().zip(out.as_chunks_mut::<2>().0) {
        *out = [table[usize::from(pair >> 4)], table[usize::from(pair & 15)]];
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn look_up_avx2(table: &Table, packed: &[u8], out: &mut [f32]) {
    use std::arch::x86_64::*;
    // Eight codes of four bytes: shifted right by these, each lane's low bits are its code.
    let shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
    // SAFETY: the table is 16 numbers long.
    let (low, high) = unsafe { (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8))) };
    let (words, rest) = packed.as_chunks::<4>();
    let (whole, ragged) = out.split_at_mut(8 * words.len());
    for (word, out) in words.iter().zip(whole.as_chunks_mut::<8>().0) {
        let codes = _mm256_srlv_epi32(_mm256_set1_epi32(i32::from_le_bytes(*word)), shifts);
        // A permutation looks at the low three bits; the fourth, moved to the sign, chooses the half.
        let below = _mm256_permutevar8x32_ps(low, codes);
        let above = _mm256_permutevar8x32_ps(high, codes);
        let half = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));
        let values = _mm256_blendv_ps(below, above, half);
        // SAFETY: the chunk is 8 numbers long.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) };
    }
    look_up_portable(table, rest, ragged);
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn look_up_avx512(table: &Table, packed: &[u8], out: &mut [f32]) {
    use std::arch::x86_64::*;
    let shifts = _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24);
    let spread = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    // SAFETY: the table is 16 numbers long.
    let values = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    let (pairs, rest) = packed.as_chunks::<8>();
    let (whole, ragged) = out.split_at_mut(16 * pairs.len());
    for (pair, out) in pairs.iter().zip(whole.as_chunks_mut::<16>().0) {
        // Eight lanes with the first four bytes, eight with the last; a permutation of sixteen
        // looks at the low four bits only.
        let words = _mm512_set1_epi64(i64::from_le_bytes(*pair));
        let codes = _mm512_srlv_epi32(_mm512_permutexvar_epi32(spread, words), shifts);
        // SAFETY: the chunk is 16 numbers long.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_permutexvar_ps(codes, values)) };
    }
    look_up_portable(table, rest, ragged);
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        for high in (0..0x7f80_u32).step_by(3) {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(high << 16 | low);
                assert_eq!(round_to_bf16(value), bf16::from_f32(value).to_f32(), "{value:e}");
                assert_eq!(round_to_bf16(-value), bf16::from_f32(-value).to_f32());
            }
        }
    }
}
