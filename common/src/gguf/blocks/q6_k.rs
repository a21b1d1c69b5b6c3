//! Blocks of 256 elements in sixteen sub-blocks, each with a scale of 8 bits: Q6_K.
//!
//! An element is `scale · (level − 32)`. For each sub-block the scale is searched that makes the sum of squared
//! errors small, weighted by the squares of the elements (`make_qx_quants`).

use half::f16;
use pulp::{Arch, Simd, WithSimd};

use super::wide::Wide;
use super::{bytes, half, nearest, transposed};

/// Sub-blocks of a block, and elements of a sub-block.
const LANES: usize = 16;
const ELEMENTS: usize = 16;
/// Levels below zero.
const BELOW: f32 = 32.0;
/// Sub-blocks whose magnitudes are below it count as zeros.
const ZERO: f32 = 1e-15;

/// A number for each sub-block.
type Lanes = [f32; LANES];

/// What was found for some sub-blocks. The level of an element `x` is the nearest to `inverse · x`.
struct Fit<S: Simd> {
    scale: Wide<S>,
    inverse: Wide<S>,
}

/// The work on some blocks.
struct Encode<'a> {
    blocks: &'a [[f32; 256]],
    out: &'a mut [[u8; 210]],
}

/// 6 bits for each element: the lower four of all, then the upper two, then the scales.
pub(super) fn q6_k(arch: Arch, values: &[f32], out: &mut [u8]) {
    arch.dispatch(Encode { blocks: values.as_chunks().0, out: out.as_chunks_mut().0 });
}

impl WithSimd for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (block, out) in self.blocks.iter().zip(self.out) {
            encode(simd, block, out);
        }
    }
}

#[inline(always)]
fn encode<S: Simd>(simd: S, block: &[f32; 256], out: &mut [u8; 210]) {
    let mut sub_blocks = [[0.0; ELEMENTS]; LANES];
    sub_blocks.as_flattened_mut().copy_from_slice(block);
    let x: [Lanes; ELEMENTS] = transposed(&sub_blocks);
    let [mut scales, mut inverses] = [[0.0; LANES]; 2];
    let parts = LANES / S::F32_LANES;
    for part in 0..parts {
        let mut lanes = [Wide::splat(simd, 0.0); ELEMENTS];
        for (lanes, x) in lanes.iter_mut().zip(&x) {
            *lanes = Wide::load(simd, x, part);
        }
        let fit = fit(simd, &lanes);
        fit.scale.store(&mut scales, part);
        fit.inverse.store(&mut inverses, part);
    }
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
    let mut stored = [0; LANES];
    for (stored, scale) in stored.iter_mut().zip(&mut scales) {
        *stored = nearest(inverse * *scale).min(127.0) as i32 as i8;
        *scale = whole * f32::from(*stored);
    }
    let mut levels = [[0.0; LANES]; ELEMENTS];
    let below = Wide::splat(simd, BELOW);
    for (levels, x) in levels.iter_mut().zip(&x) {
        for part in 0..parts {
            let (x, scale) = (Wide::load(simd, x, part), Wide::load(simd, &scales, part));
            let found = level(Wide::load(simd, &inverses, part) * x);
            (scale.is_zero().select(found, level(x / scale)) + below).store(levels, part);
        }
    }
    let levels: [[u8; ELEMENTS]; LANES] = transposed(&bytes(&levels));
    let levels = levels.as_flattened();
    for part in 0..2 {
        for i in 0..32 {
            let [a, b, c, d] = [0, 32, 64, 96].map(|quarter| levels[128 * part + quarter + i]);
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

/// The nearest level, counted from the middle; the lowest for NaN.
#[inline(always)]
fn level<S: Simd>(value: Wide<S>) -> Wide<S> {
    value.nearest().max(value.same(-BELOW)).min(value.same(BELOW - 1.0))
}

/// Finds the scale of each sub-block of `x`.
#[inline(always)]
fn fit<S: Simd>(simd: S, x: &[Wide<S>; ELEMENTS]) -> Fit<S> {
    let zero = Wide::splat(simd, 0.0);
    let mut extreme = zero;
    let (mut weights, mut weighted) = ([zero; ELEMENTS], [zero; ELEMENTS]);
    for (i, &x) in x.iter().enumerate() {
        extreme = extreme.abs().is_below(x.abs()).select(x, extreme);
        weights[i] = x * x;
        weighted[i] = weights[i] * x;
    }
    let mut best = Fit { scale: zero, inverse: zero };
    let mut most = zero;
    // The plain scale comes first and is kept unless another is better.
    for step in [0_i8, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let inverse = Wide::splat(simd, -(BELOW + 0.1 * f32::from(step))) / extreme;
        let (mut sum_lx, mut sum_l2) = (zero, zero);
        for i in 0..ELEMENTS {
            let level = level(inverse * x[i]);
            sum_lx = sum_lx + weighted[i] * level;
            sum_l2 = sum_l2 + weights[i] * level * level;
        }
        let has_levels = sum_l2.is_positive();
        let scale = has_levels.select(sum_lx / sum_l2, zero);
        let is_better = match step {
            0 => zero.is_zero(),
            _ => has_levels.and((most * sum_l2).is_below(sum_lx * sum_lx)),
        };
        best = Fit {
            scale: is_better.select(scale, best.scale),
            inverse: is_better.select(inverse, best.inverse),
        };
        most = is_better.select(scale * sum_lx, most);
    }
    // Sub-blocks of zeros have the lowest level, as NaN has.
    let is_zero = extreme.abs().is_below(extreme.same(ZERO));
    Fit {
        scale: is_zero.select(zero, best.scale),
        inverse: is_zero.select(extreme.same(f32::NAN), best.inverse),
    }
}
