//! Single numbers, and blocks of 32 elements with one scale: Q4_0, Q5_0, Q5_1 and Q8_0.

use half::bf16;

use super::half;

#[inline(always)]
pub(super) fn f32([value]: &[f32; 1], out: &mut [u8; 4]) {
    *out = value.to_le_bytes();
}

#[inline(always)]
pub(super) fn f16([value]: &[f32; 1], out: &mut [u8; 2]) {
    *out = half(*value);
}

#[inline(always)]
pub(super) fn bf16([value]: &[f32; 1], out: &mut [u8; 2]) {
    *out = bf16::from_f32(*value).to_le_bytes();
}

/// The largest magnitude.
#[inline(always)]
fn largest(x: &[f32; 32]) -> f32 {
    let larger = |one: f32, other: f32| if one > other { one } else { other };
    let mut lanes = [0.0_f32; 16];
    for x in x.as_chunks::<16>().0 {
        for i in 0..16 {
            lanes[i] = larger(x[i].abs(), lanes[i]);
        }
    }
    lanes.into_iter().fold(0.0, larger)
}

/// The element of the largest magnitude, with its sign; the first of several.
#[inline(always)]
fn extreme(x: &[f32; 32]) -> f32 {
    let largest = largest(x);
    let found = x.iter().find(|value| value.abs() == largest && largest > 0.0);
    found.copied().unwrap_or(0.0)
}

/// The inverse of a scale, and 0 for that of zeros.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// 4 bits for each element: a scale, then the elements `i` and `i + 16` in a byte.
#[inline(always)]
pub(super) fn q4_0(x: &[f32; 32], out: &mut [u8; 18]) {
    let scale = extreme(x) / -8.0;
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&half(scale));
    let level = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    for i in 0..16 {
        out[2 + i] = level(x[i]) | level(x[i + 16]) << 4;
    }
}

/// Stores the levels of 5 bits: the upper bits of all elements, then the lower ones of `i` and `i + 16` in a byte.
#[inline(always)]
fn store_5_bits(level: impl Fn(usize) -> u8, out: &mut [u8]) {
    let mut upper = 0_u32;
    for i in 0..16 {
        let (low, high) = (level(i), level(i + 16));
        out[4 + i] = low & 15 | high << 4;
        upper |= u32::from(low >> 4) << i | u32::from(high >> 4) << (i + 16);
    }
    out[..4].copy_from_slice(&upper.to_le_bytes());
}

/// 5 bits for each element, and a scale.
#[inline(always)]
pub(super) fn q5_0(x: &[f32; 32], out: &mut [u8; 22]) {
    let scale = extreme(x) / -16.0;
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&half(scale));
    store_5_bits(|i| ((x[i] * inverse + 16.5) as u8).min(31), &mut out[2..]);
}

/// 5 bits for each element, a scale and a minimum.
#[inline(always)]
pub(super) fn q5_1(x: &[f32; 32], out: &mut [u8; 24]) {
    let (mut min, mut max) = (f32::MAX, f32::MIN);
    for &value in x {
        min = if value < min { value } else { min };
        max = if value > max { value } else { max };
    }
    let scale = (max - min) / 31.0;
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&half(scale));
    out[2..4].copy_from_slice(&half(min));
    store_5_bits(|i| ((x[i] - min) * inverse + 0.5) as u8 & 31, &mut out[4..]);
}

/// 8 bits for each element, and a scale.
#[inline(always)]
pub(super) fn q8_0(x: &[f32; 32], out: &mut [u8; 34]) {
    let scale = largest(x) / 127.0;
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&half(scale));
    for i in 0..32 {
        out[2 + i] = (x[i] * inverse).round() as i8 as u8;
    }
}
