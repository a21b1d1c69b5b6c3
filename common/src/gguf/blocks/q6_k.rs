//! Blocks of 256 elements in sixteen sub-blocks, each with a scale of 8 bits: Q6_K.
//!
//! An element is `scale · (level − 32)`. For each sub-block the scale is searched that makes the sum of squared
//! errors small, weighted by the squares of the elements (`make_qx_quants`).

use half::f16;

use super::{half, nearest};

/// Sub-blocks of a block, and elements of a sub-block.
const LANES: usize = 16;
const ELEMENTS: usize = 16;
/// Levels below zero.
const BELOW: f32 = 32.0;
/// Sub-blocks whose magnitudes are below it count as zeros.
const ZERO: f32 = 1e-15;

/// A number for each sub-block.
type Lanes = [f32; LANES];

/// 6 bits for each element: the lower four of all, then the upper two, then the scales.
#[inline(always)]
pub(super) fn q6_k(x: &[f32; 256], out: &mut [u8; 210]) {
    let mut values = [[0.0; LANES]; ELEMENTS];
    for (lane, sub_block) in x.as_chunks::<ELEMENTS>().0.iter().enumerate() {
        for (values, &value) in values.iter_mut().zip(sub_block) {
            values[lane] = value;
        }
    }
    let (scales, mut levels) = fit(&values);
    let mut largest = 0.0_f32;
    for &scale in &scales {
        largest = if scale.abs() > largest.abs() { scale } else { largest };
    }
    if largest.abs() < ZERO {
        out.fill(0);
        return;
    }
    let inverse = -128.0 / largest;
    let whole = f16::from_f32(1.0 / inverse).to_f32();
    let stored = scales.map(|scale| nearest(inverse * scale).min(127.0) as i32 as i8);
    let scales = stored.map(|scale| whole * f32::from(scale));
    for (levels, values) in levels.iter_mut().zip(&values) {
        for lane in 0..LANES {
            let level = nearest(values[lane] / scales[lane]).clamp(-BELOW, BELOW - 1.0) + BELOW;
            levels[lane] = if scales[lane] == 0.0 { levels[lane] } else { level };
        }
    }
    let level = |element: usize| levels[element % ELEMENTS][element / ELEMENTS] as u8;
    for part in 0..2 {
        for i in 0..32 {
            let [a, b, c, d] = [0, 32, 64, 96].map(|quarter| level(128 * part + quarter + i));
            out[64 * part + i] = a & 15 | c << 4;
            out[64 * part + 32 + i] = b & 15 | d << 4;
            out[128 + 32 * part + i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
    for (out, scale) in out[192..208].iter_mut().zip(stored) {
        *out = scale as u8;
    }
    out[208..].copy_from_slice(&half(1.0 / inverse));
}

/// Finds the scale of each sub-block of `x`, `[element][sub-block]`, and the levels of its elements.
#[inline(always)]
fn fit(x: &[Lanes; ELEMENTS]) -> (Lanes, [Lanes; ELEMENTS]) {
    let mut extreme = [0.0_f32; LANES];
    for x in x {
        for lane in 0..LANES {
            extreme[lane] = if x[lane].abs() > extreme[lane].abs() { x[lane] } else { extreme[lane] };
        }
    }
    let mut scales = [0.0; LANES];
    let mut best = [0.0; LANES];
    let mut best_levels = [[0.0; LANES]; ELEMENTS];
    // The plain scale comes first and is kept unless another is better.
    for step in [0_i8, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let factor = -(BELOW + 0.1 * f32::from(step));
        let inverse = extreme.map(|extreme| factor / extreme);
        let mut levels = [[0.0; LANES]; ELEMENTS];
        let (mut sum_lx, mut sum_l2) = ([0.0; LANES], [0.0; LANES]);
        for i in 0..ELEMENTS {
            for lane in 0..LANES {
                let x = x[i][lane];
                let level = nearest(inverse[lane] * x).clamp(-BELOW, BELOW - 1.0);
                levels[i][lane] = level + BELOW;
                let weight = x * x;
                sum_lx[lane] += weight * x * level;
                sum_l2[lane] += weight * level * level;
            }
        }
        let mut is_better = [false; LANES];
        for lane in 0..LANES {
            let has_levels = sum_l2[lane] > 0.0;
            let is_larger = sum_lx[lane] * sum_lx[lane] > best[lane] * sum_l2[lane];
            let scale = if has_levels { sum_lx[lane] / sum_l2[lane] } else { 0.0 };
            is_better[lane] = step == 0 || has_levels && is_larger;
            scales[lane] = if is_better[lane] { scale } else { scales[lane] };
            best[lane] = if is_better[lane] { scale * sum_lx[lane] } else { best[lane] };
        }
        for (best, levels) in best_levels.iter_mut().zip(&levels) {
            for lane in 0..LANES {
                best[lane] = if is_better[lane] { levels[lane] } else { best[lane] };
            }
        }
    }
    for lane in 0..LANES {
        if extreme[lane].abs() < ZERO {
            scales[lane] = 0.0;
            best_levels.iter_mut().for_each(|levels| levels[lane] = 0.0);
        }
    }
    (scales, best_levels)
}
