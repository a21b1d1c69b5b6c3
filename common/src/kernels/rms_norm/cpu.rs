//! The reference. `r = 1 / sqrt(mean(x²) + eps)` is computed again in the backward: one pass over
//! a row that is read anyway. Here C is the width that is normalized: the model's, or one head's.

use rayon::prelude::*;

use crate::kernels::simd::vectorized;

/// Partial sums of a reduction: fixes its order and fills a wide register.
const LANES: usize = 16;

pub(super) fn forward_row(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    vectorized(
        #[inline(always)]
        || {
            let r = reciprocal_rms(x, eps);
            for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                *y = x * r * weight;
            }
        },
    );
}

/// With `x̂ = x·r` and `g = dy·weight`: `dx = r · (g − x̂ · mean(g·x̂))`.
pub(super) fn backward_row(dx: &mut [f32], dy: &[f32], x: &[f32], weight: &[f32], eps: f32) {
    vectorized(
        #[inline(always)]
        || {
            let r = reciprocal_rms(x, eps);
            let mut sums = [0.0f32; LANES];
            for ((x, dy), weight) in x.chunks(LANES).zip(dy.chunks(LANES)).zip(weight.chunks(LANES)) {
                for (sum, ((x, dy), weight)) in sums.iter_mut().zip(x.iter().zip(dy).zip(weight)) {
                    *sum += dy * weight * x;
                }
            }
            let mean = sums.iter().sum::<f32>() * r * r / x.len() as f32;
            for (((dx, dy), x), weight) in dx.iter_mut().zip(dy).zip(x).zip(weight) {
                *dx = r * (dy * weight - x * mean);
            }
        },
    );
}

pub(super) fn forward(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let c = weight.len();
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(c).zip(x.par_chunks(c)).for_each(|(y, x)| forward_row(y, x, weight, eps));
    y
}

pub(super) fn backward(dy: &[f32], x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let c = weight.len();
    let mut dx = vec![0.0; x.len()];
    let rows = dx.par_chunks_mut(c).zip(dy.par_chunks(c)).zip(x.par_chunks(c));
    rows.for_each(|((dx, dy), x)| backward_row(dx, dy, x, weight, eps));
    dx
}

/// Heads of a row, one after the other, are normalized by `weights`, each as long as its head; the columns after
/// the last one are left alone.
pub(super) fn forward_heads(x: &[f32], width: usize, weights: &[&[f32]], eps: f32) -> Vec<f32> {
    let mut y = x.to_vec();
    y.par_chunks_mut(width).zip(x.par_chunks(width)).for_each(|(y, x)| {
        let mut first = 0;
        for weight in weights {
            let head = first..first + weight.len();
            first = head.end;
            forward_row(&mut y[head.clone()], &x[head], weight, eps);
        }
    });
    y
}

pub(super) fn backward_heads(dy: &[f32], x: &[f32], width: usize, weights: &[&[f32]], eps: f32) -> Vec<f32> {
    let mut dx = dy.to_vec();
    let rows = dx.par_chunks_mut(width).zip(dy.par_chunks(width)).zip(x.par_chunks(width));
    rows.for_each(|((dx, dy), x)| {
        let mut first = 0;
        for weight in weights {
            let head = first..first + weight.len();
            first = head.end;
            backward_row(&mut dx[head.clone()], &dy[head.clone()], &x[head], weight, eps);
        }
    });
    dx
}

#[inline(always)]
fn reciprocal_rms(x: &[f32], eps: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    for x in x.chunks(LANES) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x * x;
        }
    }
    1.0 / (sums.iter().sum::<f32>() / x.len() as f32 + eps).sqrt()
}
