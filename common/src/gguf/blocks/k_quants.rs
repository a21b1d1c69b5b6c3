//! Blocks of 256 elements in eight sub-blocks, each with a scale and a minimum of 6 bits: Q4_K and Q5_K.
//!
//! An element is `scale · level − minimum`. For each sub-block the scale and minimum are searched that make the
//! weighted sum of squared errors small (`make_qkx2_quants`).

use half::f16;

use super::{half, nearest};

/// Sub-blocks of a block, and elements of a sub-block.
const LANES: usize = 8;
const ELEMENTS: usize = 32;

/// A number for each sub-block.
type Lanes = [f32; LANES];

/// What is searched for: the highest level, and the ranges of levels that are tried.
struct Search {
    levels: f32,
    first: f32,
    steps: u8,
}

/// What was found for each sub-block; the levels of elements are `[element][sub-block]`.
struct Fit {
    scales: Lanes,
    minimums: Lanes,
    levels: [Lanes; ELEMENTS],
}

/// 4 bits for each element: levels of sub-blocks `2i` and `2i + 1` share bytes.
#[inline(always)]
pub(super) fn q4_k(x: &[f32; 256], out: &mut [u8; 144]) {
    let levels = encode(x, &Search { levels: 15.0, first: -1.0, steps: 20 }, &mut out[..16]);
    for (pair, out) in out[16..].as_chunks_mut::<ELEMENTS>().0.iter_mut().enumerate() {
        for (out, levels) in out.iter_mut().zip(&levels) {
            *out = levels[2 * pair] as u8 | (levels[2 * pair + 1] as u8) << 4;
        }
    }
}

/// 5 bits for each element: the upper bits of the eight sub-blocks share a byte, the lower ones are as in Q4_K.
#[inline(always)]
pub(super) fn q5_k(x: &[f32; 256], out: &mut [u8; 176]) {
    let levels = encode(x, &Search { levels: 31.0, first: -0.5, steps: 15 }, &mut out[..16]);
    for (out, levels) in out[16..48].iter_mut().zip(&levels) {
        *out = 0;
        for (bit, &level) in levels.iter().enumerate() {
            *out |= (level as u8 >> 4) << bit;
        }
    }
    for (pair, out) in out[48..].as_chunks_mut::<ELEMENTS>().0.iter_mut().enumerate() {
        for (out, levels) in out.iter_mut().zip(&levels) {
            *out = levels[2 * pair] as u8 & 15 | (levels[2 * pair + 1] as u8) << 4;
        }
    }
}

/// Writes the scales and minimums of a block, and returns the levels of its elements.
#[inline(always)]
fn encode(x: &[f32; 256], search: &Search, out: &mut [u8]) -> [Lanes; ELEMENTS] {
    let mut values = [[0.0; LANES]; ELEMENTS];
    for (lane, sub_block) in x.as_chunks::<ELEMENTS>().0.iter().enumerate() {
        for (values, &value) in values.iter_mut().zip(sub_block) {
            values[lane] = value;
        }
    }
    let mut fit = fit(&values, search);
    let largest =
        |numbers: &Lanes| numbers.iter().fold(0.0_f32, |most, &next| if next > most { next } else { most });
    let (scale, minimum) = (largest(&fit.scales), largest(&fit.minimums));
    let stored = |largest: f32, number: f32| {
        let inverse = if largest > 0.0 { 63.0 / largest } else { 0.0 };
        (nearest(inverse * number) as i32 as u8).min(63)
    };
    let scales = fit.scales.map(|number| stored(scale, number));
    let minimums = fit.minimums.map(|number| stored(minimum, number));
    let (whole_scale, whole_minimum) = (f16::from_f32(scale / 63.0), f16::from_f32(minimum / 63.0));
    out[..2].copy_from_slice(&half(scale / 63.0));
    out[2..4].copy_from_slice(&half(minimum / 63.0));
    // 6 bits each: those of the last four sub-blocks are split.
    for i in 0..4 {
        out[4 + i] = scales[i] | (scales[i + 4] >> 4) << 6;
        out[8 + i] = minimums[i] | (minimums[i + 4] >> 4) << 6;
        out[12 + i] = scales[i + 4] & 15 | minimums[i + 4] << 4;
    }
    let scales = scales.map(|scale| whole_scale.to_f32() * f32::from(scale));
    let minimums = minimums.map(|minimum| whole_minimum.to_f32() * f32::from(minimum));
    for (levels, values) in fit.levels.iter_mut().zip(&values) {
        for lane in 0..LANES {
            let level = nearest((values[lane] + minimums[lane]) / scales[lane]);
            let level = level.max(0.0).min(search.levels);
            levels[lane] = if scales[lane] == 0.0 { levels[lane] } else { level };
        }
    }
    fit.levels
}

/// Finds the scale and the minimum of each sub-block of `x`, `[element][sub-block]`.
#[inline(always)]
fn fit(x: &[Lanes; ELEMENTS], search: &Search) -> Fit {
    let mut squares = [0.0; LANES];
    for x in x {
        for lane in 0..LANES {
            squares[lane] += x[lane] * x[lane];
        }
    }
    let average = squares.map(|sum| (sum / ELEMENTS as f32).sqrt());
    let mut weights = [[0.0; LANES]; ELEMENTS];
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = ([0.0; LANES], [0.0; LANES]);
    for (x, weights) in x.iter().zip(&mut weights) {
        for lane in 0..LANES {
            weights[lane] = average[lane] + x[lane].abs();
            min[lane] = if x[lane] < min[lane] { x[lane] } else { min[lane] };
            max[lane] = if x[lane] > max[lane] { x[lane] } else { max[lane] };
            sum_w[lane] += weights[lane];
            sum_x[lane] += weights[lane] * x[lane];
        }
    }
    let min = min.map(|min| if min > 0.0 { 0.0 } else { min });
    let mut best = Fit { scales: [0.0; LANES], minimums: min, levels: [[0.0; LANES]; ELEMENTS] };
    let mut error = [0.0; LANES];
    let mut range = [0.0; LANES];
    for lane in 0..LANES {
        range[lane] = max[lane] - min[lane];
        best.scales[lane] = 1.0 / (search.levels / range[lane]);
    }
    let level = |inverse: f32, x: f32, min: f32| nearest(inverse * (x - min)).max(0.0).min(search.levels);
    for i in 0..ELEMENTS {
        for lane in 0..LANES {
            let found = level(search.levels / range[lane], x[i][lane], min[lane]);
            best.levels[i][lane] = found;
            let difference = best.scales[lane] * found + min[lane] - x[i][lane];
            error[lane] += weights[i][lane] * (difference * difference);
        }
    }
    for step in 0..=search.steps {
        // As in the reference, the next levels count from the best minimum so far.
        let factor = search.first + 0.1 * f32::from(step) + search.levels;
        let min = best.minimums;
        let mut inverse = [0.0; LANES];
        for lane in 0..LANES {
            inverse[lane] = factor / (max[lane] - min[lane]);
        }
        let mut levels = [[0.0; LANES]; ELEMENTS];
        let (mut sum_l, mut sum_l2, mut sum_xl) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for i in 0..ELEMENTS {
            for lane in 0..LANES {
                let found = level(inverse[lane], x[i][lane], min[lane]);
                levels[i][lane] = found;
                let weighted = weights[i][lane] * found;
                sum_l[lane] += weighted;
                sum_l2[lane] += weighted * found;
                sum_xl[lane] += weighted * x[i][lane];
            }
        }
        let (mut scales, mut minimums) = ([0.0; LANES], [0.0; LANES]);
        let mut is_better = [false; LANES];
        for lane in 0..LANES {
            let determinant = sum_w[lane] * sum_l2[lane] - sum_l[lane] * sum_l[lane];
            let scale = (sum_w[lane] * sum_xl[lane] - sum_x[lane] * sum_l[lane]) / determinant;
            let minimum = (sum_l2[lane] * sum_x[lane] - sum_l[lane] * sum_xl[lane]) / determinant;
            let is_positive = minimum > 0.0;
            scales[lane] = if is_positive { sum_xl[lane] / sum_l2[lane] } else { scale };
            minimums[lane] = if is_positive { 0.0 } else { minimum };
            is_better[lane] = determinant > 0.0;
        }
        let mut errors = [0.0; LANES];
        for i in 0..ELEMENTS {
            for lane in 0..LANES {
                let difference = scales[lane] * levels[i][lane] + minimums[lane] - x[i][lane];
                errors[lane] += weights[i][lane] * (difference * difference);
            }
        }
        for lane in 0..LANES {
            is_better[lane] &= errors[lane] < error[lane];
            error[lane] = if is_better[lane] { errors[lane] } else { error[lane] };
            best.scales[lane] = if is_better[lane] { scales[lane] } else { best.scales[lane] };
            best.minimums[lane] = if is_better[lane] { minimums[lane] } else { best.minimums[lane] };
        }
        for (best, levels) in best.levels.iter_mut().zip(&levels) {
            for lane in 0..LANES {
                best[lane] = if is_better[lane] { levels[lane] } else { best[lane] };
            }
        }
    }
    for lane in 0..LANES {
        if range[lane] == 0.0 {
            best.scales[lane] = 0.0;
            best.minimums[lane] = min[lane];
            best.levels.iter_mut().for_each(|levels| levels[lane] = 0.0);
        }
        best.minimums[lane] = -best.minimums[lane];
    }
    best
}
