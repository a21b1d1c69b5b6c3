//! The backward on the host: a task is one query head of one sequence.
//!
//! With P the probabilities, O the output and δ = rowsum(dO ∘ O): `dV = Pᵀ·dO`,
//! `dS = P ∘ (dO·Vᵀ − δ)`, `dQ = dS·K / √D`, `dK = dSᵀ·Q / √D`. The gradients of a key/value head
//! are summed over the query heads that share it, in their order.

use std::ops::Range;

use rayon::prelude::*;

use super::Heads;
use crate::kernels::exp::exp;
use crate::kernels::product::{Matrix, MatrixMut, Threads, accumulate, product};
use crate::kernels::simd::vectorized;

/// Query rows handled at once.
const BLOCK: usize = 128;

/// Gradients of one query head over one sequence of n tokens, [n, D] each.
struct HeadGradients {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// dqkv [T, (H + 2K)·D].
pub(super) fn run(
    doutput: &[f32],
    qkv: &[f32],
    output: &[f32],
    log_sums: &[f32],
    heads: Heads,
    starts: &[usize],
) -> Vec<f32> {
    let (width, d) = (heads.width(), heads.size);
    let mut dqkv = vec![0.0; qkv.len()];
    let mut rest = &mut dqkv[..];
    let mut sequences = Vec::new();
    for bounds in starts.windows(2) {
        let (rows, behind) = rest.split_at_mut((bounds[1] - bounds[0]) * width);
        rest = behind;
        sequences.push((bounds[0]..bounds[1], rows));
    }
    sequences.into_par_iter().for_each(|(sequence, dqkv)| {
        let gradients: Vec<HeadGradients> = (0..heads.queries)
            .into_par_iter()
            .map(|h| head(doutput, qkv, output, log_sums, heads, sequence.clone(), h))
            .collect();
        dqkv.par_chunks_mut(width).enumerate().for_each(|(t, row)| {
            let own = t * d..(t + 1) * d;
            for (h, gradients) in gradients.iter().enumerate() {
                row[heads.query(h)].copy_from_slice(&gradients.dq[own.clone()]);
                add(&mut row[heads.key(h)], &gradients.dk[own.clone()]);
                add(&mut row[heads.value(h)], &gradients.dv[own.clone()]);
            }
        });
    });
    dqkv
}

fn head(
    doutput: &[f32],
    qkv: &[f32],
    output: &[f32],
    log_sums: &[f32],
    heads: Heads,
    sequence: Range<usize>,
    h: usize,
) -> HeadGradients {
    let (width, d, n) = (heads.width(), heads.size, sequence.len());
    let out_width = heads.queries * d;
    let scale = 1.0 / (d as f32).sqrt();
    let mut gradients = HeadGradients { dq: vec![0.0; n * d], dk: vec![0.0; n * d], dv: vec![0.0; n * d] };
    let view = |row: usize, rows: usize, columns: Range<usize>| {
        Matrix::with_stride(&qkv[row * width + columns.start..], rows, d, width)
    };
    let mut probabilities = vec![0.0; BLOCK.min(n) * n];
    let mut dscores = vec![0.0; BLOCK.min(n) * n];
    for first in (0..n).step_by(BLOCK) {
        let rows = BLOCK.min(n - first);
        let seen = first + rows;
        let row = sequence.start + first;
        let q = view(row, rows, heads.query(h));
        let k = view(sequence.start, seen, heads.key(h));
        let v = view(sequence.start, seen, heads.value(h));
        let dout = Matrix::with_stride(&doutput[row * out_width + h * d..], rows, d, out_width);
        let probabilities = &mut probabilities[..rows * seen];
        let dscores = &mut dscores[..rows * seen];
        product(MatrixMut::new(probabilities, rows, seen), scale, q, k.t(), Threads::One);
        product(MatrixMut::new(dscores, rows, seen), 1.0, dout, v.t(), Threads::One);
        let lines = probabilities.chunks_exact_mut(seen).zip(dscores.chunks_exact_mut(seen));
        for (i, (probabilities, dscores)) in lines.enumerate() {
            let at = (row + i) * out_width + h * d;
            let delta = dot(&doutput[at..at + d], &output[at..at + d]);
            let log_sum = log_sums[(row + i) * heads.queries + h];
            let (p, hidden_p) = probabilities.split_at_mut(first + i + 1);
            let (ds, hidden_ds) = dscores.split_at_mut(first + i + 1);
            vectorized(|| {
                for (p, ds) in p.iter_mut().zip(ds) {
                    *p = exp(*p - log_sum);
                    *ds = *p * (*ds - delta);
                }
            });
            hidden_p.fill(0.0);
            hidden_ds.fill(0.0);
        }
        let probabilities = Matrix::new(probabilities, rows, seen);
        let dscores = Matrix::new(dscores, rows, seen);
        product(MatrixMut::new(&mut gradients.dq[first * d..], rows, d), scale, dscores, k, Threads::One);
        accumulate(MatrixMut::new(&mut gradients.dk, seen, d), scale, dscores.t(), q, Threads::One);
        accumulate(MatrixMut::new(&mut gradients.dv, seen, d), 1.0, probabilities.t(), dout, Threads::One);
    }
    gradients
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
