//! The forward on the host: a task is a block of query rows of one sequence.

use std::ops::Range;

use rayon::prelude::*;

use super::past::HostPast;
use super::{AttentionSpec, Heads};
use crate::kernels::Write;
use crate::kernels::exp::exp;
use crate::kernels::product::{Matrix, MatrixMut, Threads, product};
use crate::kernels::simd::vectorized;
use crate::kernels::tanh::tanh;

/// Query rows of one task.
const BLOCK: usize = 64;

/// Output [T, H·D] and log-sums [T, H]; `past_of` returns what a sequence sees before itself, by its number.
pub(super) fn run<'a>(
    qkv: &[f32],
    spec: AttentionSpec,
    starts: &[usize],
    past_of: impl Fn(usize) -> Option<&'a HostPast>,
) -> (Vec<f32>, Vec<f32>) {
    let heads = spec.heads;
    let t = starts.last().copied().unwrap_or(0);
    let mut output = vec![0.0; t * heads.queries * heads.size];
    let mut log_sums = vec![0.0; t * heads.queries];
    let mut tasks = Vec::new();
    let (mut output_rest, mut sums_rest) = (&mut output[..], &mut log_sums[..]);
    for (number, sequence, rows) in blocks(starts) {
        let (output, rest) = output_rest.split_at_mut(rows.len() * heads.queries * heads.size);
        output_rest = rest;
        let (sums, rest) = sums_rest.split_at_mut(rows.len() * heads.queries);
        sums_rest = rest;
        tasks.push((sequence, rows, past_of(number), output, sums));
    }
    tasks.into_par_iter().for_each(|(sequence, rows, past, output, sums)| {
        block(qkv, spec, sequence, rows, past, output, sums);
    });
    (output, log_sums)
}

/// Every sequence's number and first row, with blocks of its rows.
fn blocks(starts: &[usize]) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
    starts.windows(2).enumerate().flat_map(|(number, bounds)| {
        let (start, end) = (bounds[0], bounds[1]);
        (start..end).step_by(BLOCK).map(move |row| (number, start, row..(row + BLOCK).min(end)))
    })
}

fn block(
    qkv: &[f32],
    spec: AttentionSpec,
    sequence: usize,
    rows: Range<usize>,
    past: Option<&HostPast>,
    output: &mut [f32],
    log_sums: &mut [f32],
) {
    let heads = spec.heads;
    let (width, d, n) = (heads.width(), heads.size, rows.len());
    let past_columns = heads.keys * d;
    let past_len = past.map_or(0, |past| past.keys.len() / past_columns);
    // Position 0 is the first of the past. The block's first row sees keys from here on, its last row up to
    // its own position.
    let first_position = past_len + rows.start - sequence;
    let first_key = spec.first_seen(first_position);
    // The keys of the past that any row sees, then those of the sequence.
    let past_keys = first_key.min(past_len)..past_len;
    let own_first = sequence + first_key.saturating_sub(past_len);
    let own_len = rows.end - own_first;
    let keys_len = past_keys.len() + own_len;
    let mut scores = vec![0.0; n * keys_len];
    for h in 0..heads.queries {
        let at = |row: usize, columns: Range<usize>| &qkv[row * width + columns.start..];
        let q = Matrix::with_stride(at(rows.start, heads.query(h)), n, d, width);
        let k = Matrix::with_stride(at(own_first, heads.key(h)), own_len, d, width);
        let v = Matrix::with_stride(at(own_first, heads.value(h)), own_len, d, width);
        let shared = past_keys.start * past_columns + (h / (heads.queries / heads.keys)) * d;
        if let Some(past) = past.filter(|_| !past_keys.is_empty()) {
            let k = Matrix::with_stride(&past.keys[shared..], past_keys.len(), d, past_columns);
            product(
                MatrixMut::with_stride(&mut scores, n, past_keys.len(), keys_len),
                Write::Overwrite,
                spec.scale,
                q,
                k.t(),
                Threads::One,
            );
        }
        let own = MatrixMut::with_stride(&mut scores[past_keys.len()..], n, own_len, keys_len);
        product(own, Write::Overwrite, spec.scale, q, k.t(), Threads::One);
        for (i, scores) in scores.chunks_exact_mut(keys_len).enumerate() {
            let position = first_position + i;
            let seen = spec.first_seen(position) - first_key..position + 1 - first_key;
            if let Some(softcap) = spec.softcap {
                cap(&mut scores[seen.clone()], softcap);
            }
            log_sums[i * heads.queries + h] = softmax(scores, seen);
        }
        let own = Matrix::with_stride(&scores[past_keys.len()..], n, own_len, keys_len);
        product(head_columns(output, heads, h, n), Write::Overwrite, 1.0, own, v, Threads::One);
        if let Some(past) = past.filter(|_| !past_keys.is_empty()) {
            let v = Matrix::with_stride(&past.values[shared..], past_keys.len(), d, past_columns);
            let probabilities = Matrix::with_stride(&scores, n, past_keys.len(), keys_len);
            product(head_columns(output, heads, h, n), Write::Add, 1.0, probabilities, v, Threads::One);
        }
    }
}

/// Columns of head `h` in n rows of the output [n, H·D].
fn head_columns(output: &mut [f32], heads: Heads, h: usize, n: usize) -> MatrixMut<'_> {
    MatrixMut::with_stride(&mut output[h * heads.size..], n, heads.size, heads.queries * heads.size)
}

/// Scores become softcap·tanh(scores / softcap).
fn cap(scores: &mut [f32], softcap: f32) {
    vectorized(|| scores.iter_mut().for_each(|score| *score = softcap * tanh(*score / softcap)));
}

/// Replaces the scores `seen` by probabilities and the others by zeros; returns the log of the sum of
/// exponentials.
fn softmax(scores: &mut [f32], seen: Range<usize>) -> f32 {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let seen = &mut scores[seen];
    vectorized(|| {
        let max = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0.0f32; 16];
        for scores in seen.chunks_mut(16) {
            for (score, sum) in scores.iter_mut().zip(&mut sums) {
                *score = exp(*score - max);
                *sum += *score;
            }
        }
        let sum: f32 = sums.iter().sum();
        let reciprocal = 1.0 / sum;
        seen.iter_mut().for_each(|score| *score *= reciprocal);
        max + sum.ln()
    })
}
