//! The reference.

use std::ops::Range;

use rayon::prelude::*;

use super::{AdamW, Factors};
use crate::kernels::simd::vectorized;

/// Parameters of one task; fixes the order of the norm's sum.
const CHUNK: usize = 1 << 14;

#[allow(clippy::too_many_arguments)] // the op's inputs, as its formula names them
pub(super) fn step(
    optimizer: &AdamW,
    range: Range<usize>,
    factors: &Factors,
    parameters: &mut [f32],
    gradients: &[f32],
    scale: f32,
    first: &mut [f32],
    second: &mut [f32],
) {
    let AdamW { beta1, beta2, epsilon, .. } = *optimizer;
    let Factors { decay, step_size, root_correction } = *factors;
    let chunks = parameters[range.clone()]
        .par_chunks_mut(CHUNK)
        .zip(gradients[range.clone()].par_chunks(CHUNK))
        .zip(first[range.clone()].par_chunks_mut(CHUNK))
        .zip(second[range].par_chunks_mut(CHUNK));
    chunks.for_each(|(((parameters, gradients), first), second)| {
        vectorized(|| {
            let values = parameters.iter_mut().zip(gradients).zip(first).zip(second);
            for (((parameter, gradient), first), second) in values {
                let gradient = gradient * scale;
                *first = *first * beta1 + gradient * (1.0 - beta1);
                *second = *second * beta2 + gradient * gradient * (1.0 - beta2);
                let denominator = second.sqrt() / root_correction + epsilon;
                *parameter = *parameter * decay - step_size * (*first / denominator);
            }
        });
    });
}

pub(super) fn norm(gradients: &[f32]) -> f64 {
    let sums: Vec<f64> = gradients
        .par_chunks(CHUNK)
        .map(|chunk| chunk.iter().map(|&g| f64::from(g) * f64::from(g)).sum())
        .collect();
    sums.iter().sum::<f64>().sqrt()
}
