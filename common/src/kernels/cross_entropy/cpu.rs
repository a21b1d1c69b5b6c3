//! The reference.

use rayon::prelude::*;

use super::RowWeights;
use crate::kernels::exp::exp;
use crate::kernels::simd::vectorized;

pub(super) fn forward(logits: &[f32], vocabulary: usize, targets: &[u32], softcap: Option<f32>) -> Vec<f64> {
    let rows = logits.par_chunks(vocabulary).zip(targets);
    rows.map(|(logits, &target)| {
        let mut capped = Vec::new();
        let logits = match softcap {
            Some(softcap) => {
                capped.extend_from_slice(logits);
                cap(&mut capped, softcap);
                &capped
            }
            None => logits,
        };
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
    softcap: Option<f32>,
) -> Vec<f64> {
    let rows = logits.par_chunks_mut(vocabulary).zip(targets).enumerate();
    rows.map(|(row, (logits, &target))| {
        if let Some(softcap) = softcap {
            cap(logits, softcap);
        }
        let (weight, (max, sum)) = (weights.of(row), max_and_sum(logits));
        let (loss, at_target) = (loss(max, sum, logits[target as usize]), logits[target as usize]);
        let factor = weight / sum;
        match softcap {
            None => {
                vectorized(
                    #[inline(always)]
                    || logits.iter_mut().for_each(|logit| *logit = exp(*logit - max) * factor),
                );
                logits[target as usize] -= weight;
            }
            Some(softcap) => {
                let slope = |capped: f32| 1.0 - (capped / softcap) * (capped / softcap);
                let gradient = |capped: f32| exp(capped - max) * factor * slope(capped);
                vectorized(
                    #[inline(always)]
                    || logits.iter_mut().for_each(|logit| *logit = gradient(*logit)),
                );
                logits[target as usize] -= weight * slope(at_target);
            }
        }
        loss
    })
    .collect()
}

/// Overwrites logits with softcap·tanh(logits / softcap), in which a NaN stays one.
pub fn cap(logits: &mut [f32], softcap: f32) {
    logits.iter_mut().for_each(|logit| *logit = softcap * (*logit / softcap).tanh());
}

fn loss(max: f32, sum: f32, target: f32) -> f64 {
    f64::from(max) + f64::from(sum).ln() - f64::from(target)
}

/// The largest logit, and the sum of `exp(logit − max)`. NaN in any logit makes the sum NaN.
fn max_and_sum(logits: &[f32]) -> (f32, f32) {
    vectorized(
        #[inline(always)]
        || {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
            let mut sums = [0.0f32; 16];
            for logits in logits.chunks(16) {
                for (logit, sum) in logits.iter().zip(&mut sums) {
                    *sum += exp(logit - max);
                }
            }
            (max, sums.iter().sum())
        },
    )
}
