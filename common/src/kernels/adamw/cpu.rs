//! The reference.

use std::ops::Range;

use rayon::prelude::*;

use super::Formula;
use super::quantized::{BLOCK, Blocks, dequantize, quantize};
use crate::kernels::simd::vectorized;
use crate::nf4::DynamicMap;

/// Parameters of one task; fixes the order of the norm's sum.
const CHUNK: usize = 1 << 14;

/// One step of parameters whose moments are f32 values; all slices are as long as each other.
pub(super) fn step(
    formula: &Formula,
    parameters: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    parameters
        .par_chunks_mut(CHUNK)
        .zip(gradients.par_chunks(CHUNK))
        .zip(first.par_chunks_mut(CHUNK))
        .zip(second.par_chunks_mut(CHUNK))
        .for_each(|(((parameters, gradients), first), second)| {
            update(formula, parameters, gradients, first, second);
        });
}

/// One step of parameters whose moments are in 8 bits: the moments of a block are dequantized, updated,
/// used and quantized again. `range` of the moments begins and ends between two blocks, or at the end.
pub(super) fn step_in_8_bits(
    formula: &Formula,
    parameters: &mut [f32],
    gradients: &[f32],
    [first, second]: &mut [Blocks; 2],
    range: Range<usize>,
) {
    let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
    let (signed, unsigned) = (DynamicMap::signed(), DynamicMap::unsigned());
    parameters
        .par_chunks_mut(BLOCK)
        .zip(gradients.par_chunks(BLOCK))
        .zip(first.codes[range.clone()].par_chunks_mut(BLOCK).zip(&mut first.absmax[blocks.clone()]))
        .zip(second.codes[range].par_chunks_mut(BLOCK).zip(&mut second.absmax[blocks]))
        .with_min_len(CHUNK / BLOCK)
        .for_each(|(((parameters, gradients), (codes, absmax)), (second_codes, second_absmax))| {
            let (mut first, mut second) = ([0.0; BLOCK], [0.0; BLOCK]);
            let (first, second) = (&mut first[..codes.len()], &mut second[..codes.len()]);
            dequantize(signed, codes, *absmax, first);
            dequantize(unsigned, second_codes, *second_absmax, second);
            update(formula, parameters, gradients, first, second);
            *absmax = quantize(signed, first, codes);
            *second_absmax = quantize(unsigned, second, second_codes);
        });
}

/// The formula.
fn update(
    formula: &Formula,
    parameters: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let Formula { scale, beta1, beta2, epsilon, decay, step_size, root_correction } = *formula;
    vectorized(
        #[inline(always)]
        || {
            let values = parameters.iter_mut().zip(gradients).zip(&mut *first).zip(&mut *second);
            for (((parameter, gradient), first), second) in values {
                let gradient = gradient * scale;
                *first = *first * beta1 + gradient * (1.0 - beta1);
                *second = *second * beta2 + gradient * gradient * (1.0 - beta2);
                let denominator = second.sqrt() / root_correction + epsilon;
                *parameter = *parameter * decay - step_size * (*first / denominator);
            }
        },
    );
}

pub(super) fn norm(gradients: &[f32]) -> f64 {
    let sums: Vec<f64> = gradients
        .par_chunks(CHUNK)
        .map(|chunk| chunk.iter().map(|&g| f64::from(g) * f64::from(g)).sum())
        .collect();
    sums.iter().sum::<f64>().sqrt()
}
