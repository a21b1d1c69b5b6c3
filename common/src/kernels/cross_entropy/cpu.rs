//! The reference.

use rayon::prelude::*;

use super::RowWeights;
use crate::kernels::exp::exp;
use crate::kernels::simd::vectorized;

pub(super) fn forward(logits: &[f32], vocabulary: usize, targets: &[u32]) -> Vec<f64> {
    logits
        .par_chunks(vocabulary)
        .zip(targets)
        .map(|(logits, &target)| {
            let (max, sum) = max_and_sum(logits);
            loss(max, sum, logits[target as usize])
        })
        .collect()
}

pub(super) fn forward_backward(
    logits: &mut [f32],
    vocabulary: usize,
    targets: &[u32],
    weights: RowWeights,
) -> Vec<f64> {
    logits
        .par_chunks_mut(vocabulary)
        .zip(targets)
        .enumerate()
        .map(|(row, (logits, &target))| {
            let (weight, (max, sum)) = (weights.of(row), max_and_sum(logits));
            let loss = loss(max, sum, logits[target as usize]);
            let factor = weight / sum;
            vectorized(|| logits.iter_mut().for_each(|logit| *logit = exp(*logit - max) * factor));
            logits[target as usize] -= weight;
            loss
        })
        .collect()
}

fn loss(max: f32, sum: f32, target: f32) -> f64 {
    f64::from(max) + f64::from(sum).ln() - f64::from(target)
}

/// The largest logit, and the sum of `exp(logit − max)`. NaN in any logit makes the sum NaN.
fn max_and_sum(logits: &[f32]) -> (f32, f32) {
    vectorized(|| {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        let mut sums = [0.0f32; 16];
        for logits in logits.chunks(16) {
            for (logit, sum) in logits.iter().zip(&mut sums) {
                *sum += exp(logit - max);
            }
        }
        (max, sums.iter().sum())
    })
}
