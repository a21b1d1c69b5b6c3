//! The numbers of blocks, as ggml computes them in f32.

use half::{bf16, f16};

/// The half-precision float at the beginning of `bytes`.
#[inline(always)]
fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

#[inline(always)]
pub(super) fn f32(block: &[u8; 4], out: &mut [f32; 1]) {
    out[0] = f32::from_le_bytes(*block);
}

#[inline(always)]
pub(super) fn f16(block: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = half(block);
}

#[inline(always)]
pub(super) fn bf16(block: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = bf16::from_le_bytes(*block).to_f32();
}

#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half(block);
    for i in 0..16 {
        let levels = block[2 + i];
        out[i] = scale * (f32::from(levels & 15) - 8.0);
        out[i + 16] = scale * (f32::from(levels >> 4) - 8.0);
    }
}

#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half(block);
    for (out, level) in out.iter_mut().zip(levels_of_5_bits(&block[2..])) {
        *out = scale * (f32::from(level) - 16.0);
    }
}

#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, minimum) = (half(block), half(&block[2..]));
    for (out, level) in out.iter_mut().zip(levels_of_5_bits(&block[4..])) {
        *out = scale * f32::from(level) + minimum;
    }
}

#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half(block);
    for (out, &level) in out.iter_mut().zip(&block[2..]) {
        *out = scale * f32::from(level as i8);
    }
}

#[inline(always)]
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let upper = [0; 32];
    k_quant(&block[..16], &upper, &block[16..], out);
}

#[inline(always)]
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    k_quant(&block[..16], &block[16..48], &block[48..], out);
}

#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = half(&block[208..]);
    let scales: [f32; 16] = std::array::from_fn(|i| scale * f32::from(block[192 + i] as i8));
    for part in 0..2 {
        for i in 0..32 {
            let (one, other) = (block[64 * part + i], block[64 * part + 32 + i]);
            let upper = block[128 + 32 * part + i];
            let levels = [
                one & 15 | (upper & 3) << 4,
                other & 15 | (upper >> 2 & 3) << 4,
                one >> 4 | (upper >> 4 & 3) << 4,
                other >> 4 | (upper >> 6) << 4,
            ];
            for (quarter, level) in levels.into_iter().enumerate() {
                let element = 128 * part + 32 * quarter + i;
                out[element] = scales[element / 16] * (f32::from(level) - 32.0);
            }
        }
    }
}

/// The levels of 32 elements: four bytes of upper bits, then the lower bits of the elements `i` and `i + 16`.
#[inline(always)]
fn levels_of_5_bits(bytes: &[u8]) -> [u8; 32] {
    let upper = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    std::array::from_fn(|i| {
        let shared = bytes[4 + i % 16];
        let lower = if i < 16 { shared & 15 } else { shared >> 4 };
        lower | ((upper >> i & 1) as u8) << 4
    })
}

/// Eight sub-blocks of 32 elements with a scale and a minimum each: `head` has these, `upper` a bit of each
/// element and `lower` four.
#[inline(always)]
fn k_quant(head: &[u8], upper: &[u8], lower: &[u8], out: &mut [f32; 256]) {
    let (scale, minimum) = (half(head), half(&head[2..]));
    let packed = &head[4..];
    for (sub_block, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (level_of_scale, level_of_minimum) = match sub_block.checked_sub(4) {
            None => (packed[sub_block] & 63, packed[sub_block + 4] & 63),
            Some(i) => {
                (packed[8 + i] & 15 | packed[i] >> 6 << 4, packed[8 + i] >> 4 | packed[4 + i] >> 6 << 4)
            }
        };
        let scale = scale * f32::from(level_of_scale);
        let minimum = minimum * f32::from(level_of_minimum);
        for (i, out) in out.iter_mut().enumerate() {
            let shared = lower[sub_block / 2 * 32 + i];
            let four = if sub_block % 2 == 0 { shared & 15 } else { shared >> 4 };
            let level = four | (upper[i] >> sub_block & 1) << 4;
            *out = scale * f32::from(level) - minimum;
        }
    }
}
