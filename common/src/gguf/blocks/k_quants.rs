//! Blocks of 256 elements in eight sub-blocks, each with a scale and a minimum of 6 bits: Q4_K and Q5_K.
//!
//! An element is `scale · level − minimum`. For each sub-block the scale and minimum are searched that make the
//! weighted sum of squared errors small (`make_qkx2_quants`).

use half::f16;
use pulp::{Arch, Simd, WithSimd};

use super::wide::Wide;
use super::{bytes, half, nearest, transposed};

/// Elements of a sub-block.
const ELEMENTS: usize = 32;
/// Sub-blocks of a block.
const SUB_BLOCKS: usize = 8;
/// Sub-blocks of the two blocks that are encoded together, as many as the widest registers have lanes.
const LANES: usize = 2 * SUB_BLOCKS;
/// The bytes of a block's scales and minimums, which come first.
const HEAD: usize = 16;

/// The bytes of the lower four bits of a block's levels, which come last.
const LOWER: usize = 128;

/// A number for each sub-block.
type Lanes = [f32; LANES];

/// What is searched for: the highest level, and the ranges of levels that are tried.
#[derive(Clone, Copy)]
struct Search {
    levels: f32,
    first: f32,
    steps: u8,
}

/// What was found for some sub-blocks. The level of an element `x` is the nearest to `inverse · (x − start)`.
struct Fit<S: Simd> {
    scale: Wide<S>,
    minimum: Wide<S>,
    inverse: Wide<S>,
    start: Wide<S>,
}

/// The work on blocks of `BYTES` bytes, two at a time.
struct Encode<'a, const BYTES: usize> {
    blocks: &'a [[f32; 256]],
    out: &'a mut [[u8; BYTES]],
    search: Search,
}

/// 4 bits for each element: levels of sub-blocks `2i` and `2i + 1` share bytes.
pub(super) fn q4_k(arch: Arch, values: &[f32], out: &mut [u8]) {
    let search = Search { levels: 15.0, first: -1.0, steps: 20 };
    let (blocks, out) = (values.as_chunks().0, out.as_chunks_mut().0);
    arch.dispatch(Encode::<144> { blocks, out, search });
}

/// 5 bits for each element: the upper bits of the eight sub-blocks share a byte, the lower ones are as in Q4_K.
pub(super) fn q5_k(arch: Arch, values: &[f32], out: &mut [u8]) {
    let search = Search { levels: 31.0, first: -0.5, steps: 15 };
    let (blocks, out) = (values.as_chunks().0, out.as_chunks_mut().0);
    arch.dispatch(Encode::<176> { blocks, out, search });
}

impl<const BYTES: usize> WithSimd for Encode<'_, BYTES> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (blocks, out) in self.blocks.chunks(2).zip(self.out.chunks_mut(2)) {
            let mut sub_blocks = [[0.0; ELEMENTS]; LANES];
            let values = blocks.as_flattened();
            sub_blocks.as_flattened_mut()[..values.len()].copy_from_slice(values);
            let levels = encode(simd, &transposed(&sub_blocks), self.search, out);
            for (levels, out) in levels.as_chunks().0.iter().zip(out) {
                let (upper, lower) = out[HEAD..].split_at_mut(BYTES - HEAD - LOWER);
                store_levels(levels, upper, lower);
            }
        }
    }
}

/// Stores the lower four bits of levels and, where there is room for them, the fifth.
#[inline(always)]
fn store_levels(levels: &[[u8; ELEMENTS]; SUB_BLOCKS], upper: &mut [u8], lower: &mut [u8]) {
    for ([even, odd], out) in levels.as_chunks().0.iter().zip(lower.as_chunks_mut::<ELEMENTS>().0) {
        for i in 0..ELEMENTS {
            out[i] = even[i] & 15 | odd[i] << 4;
        }
    }
    if let Some(out) = upper.first_chunk_mut::<ELEMENTS>() {
        let mut bits = [0; ELEMENTS];
        for (bit, levels) in levels.iter().enumerate() {
            for i in 0..ELEMENTS {
                bits[i] |= (levels[i] >> 4) << bit;
            }
        }
        *out = bits;
    }
}

/// Writes the scales and minimums of two blocks, and returns the levels of their elements. `x` is
/// `[element][sub-block]`.
#[inline(always)]
fn encode<S: Simd, const BYTES: usize>(
    simd: S,
    x: &[Lanes; ELEMENTS],
    search: Search,
    out: &mut [[u8; BYTES]],
) -> [[u8; ELEMENTS]; LANES] {
    let [mut scales, mut minimums, mut inverses, mut starts] = [[0.0; LANES]; 4];
    let parts = LANES / S::F32_LANES;
    for part in 0..parts {
        let mut lanes = [Wide::splat(simd, 0.0); ELEMENTS];
        for (lanes, x) in lanes.iter_mut().zip(x) {
            *lanes = Wide::load(simd, x, part);
        }
        let fit = fit(simd, lanes, search);
        fit.scale.store(&mut scales, part);
        fit.minimum.store(&mut minimums, part);
        fit.inverse.store(&mut inverses, part);
        fit.start.store(&mut starts, part);
    }
    for (out, (scales, minimums)) in
        out.iter_mut().zip(scales.as_chunks_mut().0.iter_mut().zip(minimums.as_chunks_mut().0))
    {
        store_scales(scales, minimums, &mut out[..HEAD]);
    }
    let mut levels = [[0.0; LANES]; ELEMENTS];
    let most = Wide::splat(simd, search.levels);
    for (levels, x) in levels.iter_mut().zip(x) {
        for part in 0..parts {
            let x = Wide::load(simd, x, part);
            let scale = Wide::load(simd, &scales, part);
            let found = level(Wide::load(simd, &inverses, part), x, Wide::load(simd, &starts, part), most);
            let last = level_of((x + Wide::load(simd, &minimums, part)) / scale, most);
            scale.is_zero().select(found, last).store(levels, part);
        }
    }
    transposed(&bytes(&levels))
}

/// Stores the scales and minimums of a block in 6 bits each, and makes them what is stored.
#[inline(always)]
fn store_scales(scales: &mut [f32; SUB_BLOCKS], minimums: &mut [f32; SUB_BLOCKS], out: &mut [u8]) {
    let largest = |numbers: &[f32; SUB_BLOCKS]| {
        numbers.iter().fold(0.0_f32, |most, &next| if next > most { next } else { most })
    };
    let stored = |largest: f32, number: f32| {
        let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
        (nearest(inverse * number) as i32 as u8).min(63)
    };
    let (scale, minimum) = (largest(scales), largest(minimums));
    let [mut levels, mut levels_of_minimums] = [[0; SUB_BLOCKS]; 2];
    for i in 0..SUB_BLOCKS {
        levels[i] = stored(scale, scales[i]);
        levels_of_minimums[i] = stored(minimum, minimums[i]);
    }
    out[..2].copy_from_slice(&half(scale / 63.0));
    out[2..4].copy_from_slice(&half(minimum / 63.0));
    // Those of the last four sub-blocks are split.
    for i in 0..4 {
        out[4 + i] = levels[i] | (levels[i + 4] >> 4) << 6;
        out[8 + i] = levels_of_minimums[i] | (levels_of_minimums[i + 4] >> 4) << 6;
        out[12 + i] = levels[i + 4] & 15 | levels_of_minimums[i + 4] << 4;
    }
    let (scale, minimum) = (f16::from_f32(scale / 63.0).to_f32(), f16::from_f32(minimum / 63.0).to_f32());
    for i in 0..SUB_BLOCKS {
        scales[i] = scale * f32::from(levels[i]);
        minimums[i] = minimum * f32::from(levels_of_minimums[i]);
    }
}

/// The level of an element.
#[inline(always)]
fn level<S: Simd>(inverse: Wide<S>, x: Wide<S>, start: Wide<S>, most: Wide<S>) -> Wide<S> {
    level_of(inverse * (x - start), most)
}

/// The nearest level; 0 for NaN.
#[inline(always)]
fn level_of<S: Simd>(value: Wide<S>, most: Wide<S>) -> Wide<S> {
    value.nearest().max(value.same(0.0)).min(most)
}

/// The elements of some sub-blocks, how much the error of each counts, and the highest level.
struct Elements<S: Simd> {
    x: [Wide<S>; ELEMENTS],
    weights: [Wide<S>; ELEMENTS],
    most: Wide<S>,
}

impl<S: Simd> Elements<S> {
    /// The sum of the weighted squares of errors.
    #[inline(always)]
    fn error(&self, fit: &Fit<S>) -> Wide<S> {
        let mut sum = self.most.same(0.0);
        for (&x, &weight) in self.x.iter().zip(&self.weights) {
            let level = level(fit.inverse, x, fit.start, self.most);
            let difference = fit.scale * level + fit.minimum - x;
            sum = sum + weight * (difference * difference);
        }
        sum
    }
}

/// Finds the scale and the minimum of each sub-block of `x`.
#[inline(always)]
fn fit<S: Simd>(simd: S, x: [Wide<S>; ELEMENTS], search: Search) -> Fit<S> {
    let zero = Wide::splat(simd, 0.0);
    let most = Wide::splat(simd, search.levels);
    let mut squares = zero;
    for &x in &x {
        squares = squares + x * x;
    }
    let average = (squares / Wide::splat(simd, ELEMENTS as f32)).sqrt();
    let mut weights = [zero; ELEMENTS];
    let (mut min, mut max, mut sum_w, mut sum_x) = (x[0], x[0], zero, zero);
    for (&x, weight) in x.iter().zip(&mut weights) {
        *weight = average + x.abs();
        min = x.min(min);
        max = x.max(max);
        sum_w = sum_w + *weight;
        sum_x = sum_x + *weight * x;
    }
    let min = min.min(zero);
    let range = max - min;
    let elements = Elements { x, weights, most };

    let inverse = most / range;
    let mut best = Fit { scale: Wide::splat(simd, 1.0) / inverse, minimum: min, inverse, start: min };
    let mut least = elements.error(&best);
    for step in 0..=search.steps {
        // As in the reference, the next levels count from the best minimum so far.
        let start = best.minimum;
        let factor = search.first + 0.1 * f32::from(step) + search.levels;
        let inverse = Wide::splat(simd, factor) / (max - start);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        for (&x, &weight) in elements.x.iter().zip(&elements.weights) {
            let level = level(inverse, x, start, most);
            let weighted = weight * level;
            sum_l = sum_l + weighted;
            sum_l2 = sum_l2 + weighted * level;
            sum_xl = sum_xl + weighted * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        let scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        let is_positive = minimum.is_positive();
        let scale = is_positive.select(sum_xl / sum_l2, scale);
        let minimum = is_positive.select(zero, minimum);
        let found = Fit { scale, minimum, inverse, start };
        let error = elements.error(&found);
        let is_better = determinant.is_positive().and(error.is_below(least));
        least = is_better.select(error, least);
        best = Fit {
            scale: is_better.select(found.scale, best.scale),
            minimum: is_better.select(found.minimum, best.minimum),
            inverse: is_better.select(found.inverse, best.inverse),
            start: is_better.select(found.start, best.start),
        };
    }
    let is_flat = range.is_zero();
    Fit {
        scale: is_flat.select(zero, best.scale),
        minimum: zero - is_flat.select(min, best.minimum),
        inverse: is_flat.select(zero, best.inverse),
        start: is_flat.select(zero, best.start),
    }
}
