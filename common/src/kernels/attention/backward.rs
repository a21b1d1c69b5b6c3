//! The backward on the host: a task is one query head of one sequence.
//!
//! With P the probabilities, O the output and δ = rowsum(dO ∘ O): `dV = Pᵀ·dO`,
//! `dS = P ∘ (dO·Vᵀ − δ)`, `dQ = dS·K / √D`, `dK = dSᵀ·Q / √D`. Where scores are capped, dS is also multiplied with
//! the slope of c·tanh(s / c), 1 − tanh²(s / c). The gradients of a key/value head
//! are summed over the query heads that share it, in their order.

use std::ops::Range;

use rayon::prelude::*;

use super::AttentionSpec;
use crate::kernels::Write;
use crate::kernels::exp::exp;
use crate::kernels::product::{Matrix, MatrixMut, Threads, product};
use crate::kernels::simd::vectorized;
use crate::kernels::tanh::tanh;

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
    spec: AttentionSpec,
    starts: &[usize],
) -> Vec<f32> {
    let heads = spec.heads;
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
            .map(|h| head(doutput, qkv, output, log_sums, spec, sequence.clone(), h))
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
    spec: AttentionSpec,
    sequence: Range<usize>,
    h: usize,
) -> HeadGradients {
    let AttentionSpec { heads, scale, .. } = spec;
    let (width, d, n) = (heads.width(), heads.size, sequence.len());
    let out_width = heads.queries * d;
    let mut gradients = HeadGradients { dq: vec![0.0; n * d], dk: vec![0.0; n * d], dv: vec![0.0; n * d] };
    let view = |row: usize, rows: usize, columns: Range<usize>| {
        Matrix::with_stride(&qkv[row * width + columns.start..], rows, d, width)
    };
    let mut probabilities = vec![0.0; BLOCK.min(n) * n];
    let mut dscores = vec![0.0; BLOCK.min(n) * n];
    for first in (0..n).step_by(BLOCK) {
        let rows = BLOCK.min(n - first);
        // Keys that any of the rows sees.
        let first_key = spec.first_seen(first);
        let seen = first + rows - first_key;
        let row = sequence.start + first;
        let q = view(row, rows, heads.query(h));
        let k = view(sequence.start + first_key, seen, heads.key(h));
        let v = view(sequence.start + first_key, seen, heads.value(h));
        let dout = Matrix::with_stride(&doutput[row * out_width + h * d..], rows, d, out_width);
        let probabilities = &mut probabilities[..rows * seen];
        let dscores = &mut dscores[..rows * seen];
        product(MatrixMut::new(probabilities, rows, seen), Write::Overwrite, scale, q, k.t(), Threads::One);
        product(MatrixMut::new(dscores, rows, seen), Write::Overwrite, 1.0, dout, v.t(), Threads::One);
        let lines = probabilities.chunks_exact_mut(seen).zip(dscores.chunks_exact_mut(seen));
        for (i, (probabilities, dscores)) in lines.enumerate() {
            let at = (row + i) * out_width + h * d;
            let delta = dot(&doutput[at..at + d], &output[at..at + d]);
            let log_sum = log_sums[(row + i) * heads.queries + h];
            let own = spec.first_seen(first + i) - first_key..first + i + 1 - first_key;
            for values in [&mut *probabilities, &mut *dscores] {
                values[..own.start].fill(0.0);
                values[own.end..].fill(0.0);
            }
            let (p, ds) = (&mut probabilities[own.clone()], &mut dscores[own]);
            vectorized(
                #[inline(always)]
                || match spec.softcap {
                    None => {
                        for (p, ds) in p.iter_mut().zip(&mut *ds) {
                            *p = exp(*p - log_sum);
                            *ds = *p * (*ds - delta);
                        }
                    }
                    Some(softcap) => {
                        for (p, ds) in p.iter_mut().zip(&mut *ds) {
                            let tangent = tanh(*p / softcap);
                            *p = exp(softcap * tangent - log_sum);
                            *ds = *p * (*ds - delta) * (1.0 - tangent * tangent);
                        }
                    }
                },
            );
        }
        let probabilities = Matrix::new(probabilities, rows, seen);
        let dscores = Matrix::new(dscores, rows, seen);
        product(
            MatrixMut::new(&mut gradients.dq[first * d..], rows, d),
            Write::Overwrite,
            scale,
            dscores,
            k,
            Threads::One,
        );
        let keys = first_key * d..;
        product(
            MatrixMut::new(&mut gradients.dk[keys.clone()], seen, d),
            Write::Add,
            scale,
            dscores.t(),
            q,
            Threads::One,
        );
        product(
            MatrixMut::new(&mut gradients.dv[keys], seen, d),
            Write::Add,
            1.0,
            probabilities.t(),
            dout,
            Threads::One,
        );
    }
    gradients
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
