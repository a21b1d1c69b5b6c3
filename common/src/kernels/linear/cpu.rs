//! The reference: a block of weight rows is widened to f32 into scratch that stays in the cache,
//! then multiplied, then the next block.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{Linear, Weight};
use crate::Result;
use crate::kernels::product::{Matrix, MatrixMut, Threads, accumulate, product};
use crate::kernels::simd::vectorized;

/// Weights widened at a time: 4 MiB of f32, a share of the last-level cache.
const BLOCK_WEIGHTS: usize = 1 << 20;
/// Up to this many rows of x, each weight row is used in registers right after it is widened.
const FEW_ROWS: usize = 4;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` with `len` values of this thread's scratch; their content is arbitrary.
fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let result = work(&mut scratch[..len]);
    SCRATCH.set(scratch);
    result
}

/// y [T, ΣN] and x·Aᵀ [T, ΣR].
pub(super) fn forward(
    x: &[f32],
    t: usize,
    linear: &Linear,
    parameters: Option<&[f32]>,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let (k, n) = (linear.inputs, linear.outputs);
    let mut y = vec![0.0; t * n];
    multiply(&mut y, x, t, linear.projections.iter().map(|projection| &projection.weight), n)?;
    add_bias(&mut y, linear);
    let ranks = linear.ranks();
    let mut low = Vec::new();
    if let Some(parameters) = parameters.filter(|_| ranks > 0 && t > 0) {
        low = vec![0.0; t * ranks];
        let x = Matrix::new(x, t, k);
        for (columns, rank_columns, adapter) in slots(linear) {
            let a = Matrix::new(&parameters[adapter.a.clone()], adapter.rank, k);
            let b = Matrix::new(&parameters[adapter.b.clone()], columns.len(), adapter.rank);
            let out = MatrixMut::with_stride(&mut low[rank_columns.start..], t, adapter.rank, ranks);
            product(out, 1.0, x, a.t(), Threads::All);
            let low = Matrix::with_stride(&low[rank_columns.start..], t, adapter.rank, ranks);
            let out = MatrixMut::with_stride(&mut y[columns.start..], t, columns.len(), n);
            accumulate(out, adapter.scale, low, b.t(), Threads::All);
        }
    }
    Ok((y, low))
}

/// `dx = dy·W + scale·(dy·B)·A`, `dA += scale·(dy·B)ᵀ·x`, `dB += scale·dyᵀ·(x·Aᵀ)`.
#[allow(clippy::too_many_arguments)] // the op's inputs, as its shapes name them
pub(super) fn backward(
    dy: &[f32],
    x: &[f32],
    t: usize,
    low: &[f32],
    linear: &Linear,
    parameters: &[f32],
    gradients: &mut [f32],
    needs_dx: bool,
) -> Result<Option<Vec<f32>>> {
    if t == 0 {
        return Ok(needs_dx.then(Vec::new));
    }
    let (k, n, ranks) = (linear.inputs, linear.outputs, linear.ranks());
    let mut dx = None;
    if needs_dx {
        let mut values = vec![0.0; t * k];
        let weights = linear.projections.iter().map(|projection| &projection.weight);
        multiply_transposed(&mut values, dy, t, weights, n)?;
        dx = Some(values);
    }
    let x = Matrix::new(x, t, k);
    for (columns, rank_columns, adapter) in slots(linear) {
        let rank = adapter.rank;
        let dy = Matrix::with_stride(&dy[columns.start..], t, columns.len(), n);
        let b = Matrix::new(&parameters[adapter.b.clone()], columns.len(), rank);
        let low = Matrix::with_stride(&low[rank_columns.start..], t, rank, ranks);
        let mut dlow = vec![0.0; t * rank];
        product(MatrixMut::new(&mut dlow, t, rank), adapter.scale, dy, b, Threads::All);
        let dlow = Matrix::new(&dlow, t, rank);
        let da = MatrixMut::new(&mut gradients[adapter.a.clone()], rank, k);
        accumulate(da, 1.0, dlow.t(), x, Threads::All);
        let db = MatrixMut::new(&mut gradients[adapter.b.clone()], columns.len(), rank);
        accumulate(db, adapter.scale, dy.t(), low, Threads::All);
        if let Some(dx) = &mut dx {
            let a = Matrix::new(&parameters[adapter.a.clone()], rank, k);
            accumulate(MatrixMut::new(dx, t, k), 1.0, dlow, a, Threads::All);
        }
    }
    Ok(dx)
}

/// Each adapter with its columns of y and of x·Aᵀ.
fn slots(
    linear: &Linear,
) -> impl Iterator<Item = (std::ops::Range<usize>, std::ops::Range<usize>, &super::AdapterSlot)> {
    let (mut column, mut rank_column) = (0, 0);
    linear.projections.iter().filter_map(move |projection| {
        let columns = column..column + projection.weight.shape()[0];
        column = columns.end;
        let adapter = projection.adapter.as_ref()?;
        let rank_columns = rank_column..rank_column + adapter.rank;
        rank_column = rank_columns.end;
        Some((columns, rank_columns, adapter))
    })
}

fn add_bias(y: &mut [f32], linear: &Linear) {
    let mut first = 0;
    for projection in &linear.projections {
        let n = projection.weight.shape()[0];
        if let Some(bias) = &projection.bias {
            y.par_chunks_mut(linear.outputs).for_each(|y| {
                y[first..first + n].iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            });
        }
        first += n;
    }
}

/// y [T, ΣN] = x [T, K] · Wᵀ for weights [N, K] stacked along N. Overwrites y.
pub(super) fn multiply<'a>(
    y: &mut [f32],
    x: &[f32],
    t: usize,
    weights: impl Iterator<Item = &'a Weight>,
    outputs: usize,
) -> Result<()> {
    if t == 0 {
        return Ok(());
    }
    let mut first = 0;
    for weight in weights {
        let [n, k] = weight.shape();
        if t <= FEW_ROWS {
            few_rows(&mut y[first..], x, t, weight, outputs)?;
        } else {
            for_blocks(weight, |rows, block| {
                let out = MatrixMut::with_stride(&mut y[first + rows.start..], t, rows.len(), outputs);
                let block = Matrix::new(block, rows.len(), k);
                product(out, 1.0, Matrix::new(x, t, k), block.t(), Threads::All);
            })?;
        }
        first += n;
    }
    Ok(())
}

/// dx [T, K] += dy [T, ΣN] · W for weights [N, K] stacked along N.
pub(super) fn multiply_transposed<'a>(
    dx: &mut [f32],
    dy: &[f32],
    t: usize,
    weights: impl Iterator<Item = &'a Weight>,
    outputs: usize,
) -> Result<()> {
    let mut first = 0;
    for weight in weights {
        let [n, k] = weight.shape();
        for_blocks(weight, |rows, block| {
            let dy = Matrix::with_stride(&dy[first + rows.start..], t, rows.len(), outputs);
            accumulate(MatrixMut::new(dx, t, k), 1.0, dy, Matrix::new(block, rows.len(), k), Threads::All);
        })?;
        first += n;
    }
    Ok(())
}

/// Gives the weight to `work` in blocks of rows, widened by all threads.
fn for_blocks(weight: &Weight, mut work: impl FnMut(std::ops::Range<usize>, &[f32])) -> Result<()> {
    let [n, k] = weight.shape();
    let rows_in_block = (BLOCK_WEIGHTS / k.max(1)).clamp(1, n.max(1));
    with_scratch(rows_in_block * k, |scratch| {
        for start in (0..n).step_by(rows_in_block) {
            let rows = start..(start + rows_in_block).min(n);
            let block = &mut scratch[..rows.len() * k];
            let rows_in_task = rows.len().div_ceil(4 * rayon::current_num_threads());
            block.par_chunks_mut((rows_in_task * k).max(1)).enumerate().try_for_each(|(i, out)| {
                let first = rows.start + i * rows_in_task;
                weight.read_rows(first..first + out.len() / k, out)
            })?;
            work(rows, block);
        }
        Ok(())
    })
}

/// y [T, N] = x [T, K] · Wᵀ for a T so small that widening W is most of the work.
fn few_rows(y: &mut [f32], x: &[f32], t: usize, weight: &Weight, outputs: usize) -> Result<()> {
    const ROWS: usize = 8;
    let [n, k] = weight.shape();
    let mut transposed = vec![0.0; n * t];
    transposed.par_chunks_mut(ROWS * t).enumerate().try_for_each(|(task, out)| {
        let rows = task * ROWS..task * ROWS + out.len() / t;
        with_scratch(rows.len() * k, |scratch| -> Result<()> {
            weight.read_rows(rows, scratch)?;
            for (out, w) in out.chunks_mut(t).zip(scratch.chunks(k)) {
                for (out, x) in out.iter_mut().zip(x.chunks(k)) {
                    *out = dot(x, w);
                }
            }
            Ok(())
        })
    })?;
    for (row, values) in transposed.chunks(t).enumerate() {
        for (token, value) in values.iter().enumerate() {
            y[token * outputs + row] = *value;
        }
    }
    Ok(())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    vectorized(|| {
        let mut sums = [0.0f32; 64];
        let (a_wide, a_rest) = a.as_chunks::<64>();
        let (b_wide, b_rest) = b.as_chunks::<64>();
        for (a, b) in a_wide.iter().zip(b_wide) {
            for i in 0..64 {
                sums[i] += a[i] * b[i];
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        sums.iter().sum::<f32>() + rest
    })
}
