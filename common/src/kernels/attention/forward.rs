//! The forward on the host: a task is a block of query rows of one sequence.

use std::ops::Range;

use rayon::prelude::*;

use super::Heads;
use super::past::HostPast;
use crate::kernels::exp::exp;
use crate::kernels::product::{Matrix, MatrixMut, Threads, accumulate, product};
use crate::kernels::simd::vectorized;

/// Query rows of one task.
const BLOCK: usize = 64;

/// Output [T, H·D] and log-sums [T, H].
pub(super) fn run(
    qkv: &[f32],
    heads: Heads,
    starts: &[usize],
    past: Option<&HostPast>,
) -> (Vec<f32>, Vec<f32>) {
    let t = starts.last().copied().unwrap_or(0);
    let mut output = vec![0.0; t * heads.queries * heads.size];
    let mut log_sums = vec![0.0; t * heads.queries];
    let mut tasks = Vec::new();
    let (mut output_rest, mut sums_rest) = (&mut output[..], &mut log_sums[..]);
    for (sequence, rows) in blocks(starts) {
        let (output, rest) = output_rest.split_at_mut(rows.len() * heads.queries * heads.size);
        output_rest = rest;
        let (sums, rest) = sums_rest.split_at_mut(rows.len() * heads.queries);
        sums_rest = rest;
        tasks.push((sequence, rows, output, sums));
    }
    tasks.into_par_iter().for_each(|(sequence, rows, output, sums)| {
        block(qkv, heads, sequence, rows, past, output, sums);
    });
    (output, log_sums)
}

/// Every sequence's first row, with blocks of its rows.
fn blocks(starts: &[usize]) -> impl Iterator<Item = (usize, Range<usize>)> {
    starts.windows(2).flat_map(|bounds| {
        let (start, end) = (bounds[0], bounds[1]);
        (start..end).step_by(BLOCK).map(move |row| (start, row..(row + BLOCK).min(end)))
    })
}

fn block(
    qkv: &[f32],
    heads: Heads,
    sequence: usize,
    rows: Range<usize>,
    past: Option<&HostPast>,
    output: &mut [f32],
    log_sums: &mut [f32],
) {
    let (width, d, n) = (heads.width(), heads.size, rows.len());
    let past_columns = heads.keys * d;
    let past_len = past.map_or(0, |past| past.keys.len() / past_columns);
    // Keys that the block's last row sees: the past, then the sequence up to that row.
    let own_len = rows.end - sequence;
    let keys_len = past_len + own_len;
    let mut scores = vec![0.0; n * keys_len];
    let scale = 1.0 / (d as f32).sqrt();
    for h in 0..heads.queries {
        let at = |row: usize, columns: Range<usize>| &qkv[row * width + columns.start..];
        let q = Matrix::with_stride(at(rows.start, heads.query(h)), n, d, width);
        let k = Matrix::with_stride(at(sequence, heads.key(h)), own_len, d, width);
        let v = Matrix::with_stride(at(sequence, heads.value(h)), own_len, d, width);
        let shared = (h / (heads.queries / heads.keys)) * d;
        if let Some(past) = past.filter(|_| past_len > 0) {
            let k = Matrix::with_stride(&past.keys[shared..], past_len, d, past_columns);
            product(
                MatrixMut::with_stride(&mut scores, n, past_len, keys_len),
                scale,
                q,
                k.t(),
                Threads::One,
            );
        }
        let own = MatrixMut::with_stride(&mut scores[past_len..], n, own_len, keys_len);
        product(own, scale, q, k.t(), Threads::One);
        for (i, scores) in scores.chunks_exact_mut(keys_len).enumerate() {
            let seen = past_len + rows.start + i + 1 - sequence;
            log_sums[i * heads.queries + h] = softmax(scores, seen);
        }
        let own = Matrix::with_stride(&scores[past_len..], n, own_len, keys_len);
        product(head_columns(output, heads, h, n), 1.0, own, v, Threads::One);
        if let Some(past) = past.filter(|_| past_len > 0) {
            let v = Matrix::with_stride(&past.values[shared..], past_len, d, past_columns);
            let probabilities = Matrix::with_stride(&scores, n, past_len, keys_len);
            accumulate(head_columns(output, heads, h, n), 1.0, probabilities, v, Threads::One);
        }
    }
}

/// Columns of head `h` in n rows of the output [n, H·D].
fn head_columns(output: &mut [f32], heads: Heads, h: usize, n: usize) -> MatrixMut<'_> {
    MatrixMut::with_stride(&mut output[h * heads.size..], n, heads.size, heads.queries * heads.size)
}

/// Turns the first `seen` scores into probabilities and the rest into zeros; returns the log of the
/// sum of exponentials.
fn softmax(scores: &mut [f32], seen: usize) -> f32 {
    let (seen, hidden) = scores.split_at_mut(seen);
    hidden.fill(0.0);
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
