//! The reference.

use std::ops::Range;

use rayon::prelude::*;

use super::{AdamW, Moments};
use crate::kernels::simd::vectorized;

/// Parameters of one task; fixes the order of the norm's sum.
const CHUNK: usize = 1 << 14;

pub(super) fn step(
    optimizer: &AdamW,
    range: Range<usize>,
    parameters: &mut [f32],
    gradients: &[f32],
    scale: f32,
    moments: &mut Moments,
    learning_rate: f32,
) {
    let AdamW { beta1, beta2, epsilon, weight_decay } = *optimizer;
    let correct = |beta: f32| 1.0 - f64::from(beta).powi(moments.steps.min(i32::MAX as u64) as i32);
    let step_size = (f64::from(learning_rate) / correct(beta1)) as f32;
    let root_correction = correct(beta2).sqrt() as f32;
    let decay = 1.0 - learning_rate * weight_decay;
    let chunks = parameters[range.clone()]
        .par_chunks_mut(CHUNK)
        .zip(gradients[range.clone()].par_chunks(CHUNK))
        .zip(moments.first[range.clone()].par_chunks_mut(CHUNK))
        .zip(moments.second[range].par_chunks_mut(CHUNK));
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
