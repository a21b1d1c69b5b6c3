//! The reference: a block of weight rows is dequantized to f32 into scratch that stays in the cache,
//! then multiplied, then the next block.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::{Linear, Parameters, Weight, lora};
use crate::Result;
use crate::kernels::Write;
use crate::kernels::product::{Matrix, MatrixMut, Threads, product};
use crate::kernels::simd::vectorized;

/// Weights dequantized at a time: 4 MiB of f32, a share of the last-level cache.
const BLOCK_WEIGHTS: usize = 1 << 20;
/// Up to this many rows of x, each weight row is used in registers right after it is dequantized.
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
    parameters: Option<Parameters>,
) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
    let n = linear.outputs;
    let mut y = vec![0.0; t * n];
    multiply(&mut y, x, t, &weights(linear))?;
    add_bias(&mut y, linear);
    let lora_hidden =
        parameters.map(|parameters| lora::add_outputs(&mut y, x, t, linear, parameters)).transpose()?;
    Ok((y, lora_hidden))
}

/// `dx = dy·W` and the adapters' part of it, where it is needed, and scale·dy·B [T, ΣR].
#[allow(clippy::type_complexity)] // the two of them
pub(super) fn backward(
    dy: &[f32],
    t: usize,
    linear: &Linear,
    parameters: Parameters,
    needs_dx: bool,
) -> Result<(Option<Vec<f32>>, Option<Vec<f32>>)> {
    let mut d_lora_hidden = None;
    if linear.has_adapter() && t > 0 {
        d_lora_hidden = Some(lora::backward(dy, t, linear, parameters)?);
    }
    if !needs_dx {
        return Ok((None, d_lora_hidden));
    }
    let mut dx = vec![0.0; t * linear.inputs];
    multiply_transposed(&mut dx, dy, t, &weights(linear), Write::Overwrite)?;
    if let Some(d_lora_hidden) = &d_lora_hidden {
        lora::add_inputs(&mut dx, d_lora_hidden, t, linear, parameters)?;
    }
    Ok((Some(dx), d_lora_hidden))
}

pub(super) fn weights(linear: &Linear) -> Vec<&Weight> {
    linear.projections.iter().map(|projection| &projection.weight).collect()
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
pub(in crate::kernels) fn multiply(y: &mut [f32], x: &[f32], t: usize, weights: &[&Weight]) -> Result<()> {
    if t == 0 {
        return Ok(());
    }
    let outputs = outputs(weights);
    if t <= FEW_ROWS {
        let mut first = 0;
        for weight in weights {
            few_rows(&mut y[first..], x, t, weight, outputs)?;
            first += weight.shape()[0];
        }
        return Ok(());
    }
    for_blocks(weights, |rows, block| {
        let out = MatrixMut::with_stride(&mut y[rows.start..], t, rows.len(), outputs);
        product(out, Write::Overwrite, 1.0, Matrix::new(x, t, inputs(weights)), block.t(), Threads::All);
    })
}

/// dx [T, K] = dy [T, ΣN] · W for weights [N, K] stacked along N, or added to what dx holds.
pub(in crate::kernels) fn multiply_transposed(
    dx: &mut [f32],
    dy: &[f32],
    t: usize,
    weights: &[&Weight],
    write: Write,
) -> Result<()> {
    if t == 0 {
        return Ok(());
    }
    let (k, outputs) = (inputs(weights), outputs(weights));
    if write == Write::Overwrite {
        dx[..t * k].fill(0.0);
    }
    for_blocks(weights, |rows, block| {
        let dy = Matrix::with_stride(&dy[rows.start..], t, rows.len(), outputs);
        product(MatrixMut::new(dx, t, k), Write::Add, 1.0, dy, block, Threads::All);
    })
}

/// K
fn inputs(weights: &[&Weight]) -> usize {
    weights.first().map_or(0, |weight| weight.shape()[1])
}

/// ΣN
fn outputs(weights: &[&Weight]) -> usize {
    weights.iter().map(|weight| weight.shape()[0]).sum()
}

/// Gives stacked weights to `work` in blocks of rows, dequantized by all threads.
fn for_blocks(weights: &[&Weight], mut work: impl FnMut(Range<usize>, Matrix<'_>)) -> Result<()> {
    let (n, k) = (outputs(weights), inputs(weights));
    // Rows a multiple of 2 KiB apart fall into few sets of the cache, and a product reads columns.
    let stride = if k.is_multiple_of(512) { k + 16 } else { k };
    let rows_in_block = (BLOCK_WEIGHTS / stride.max(1)).clamp(1, n.max(1));
    with_scratch(rows_in_block * stride, |scratch| {
        for start in (0..n).step_by(rows_in_block) {
            let rows = start..(start + rows_in_block).min(n);
            let block = &mut scratch[..rows.len() * stride];
            let rows_in_task = rows.len().div_ceil(4 * rayon::current_num_threads());
            block.par_chunks_mut((rows_in_task * stride).max(1)).enumerate().try_for_each(|(i, out)| {
                let first = rows.start + i * rows_in_task;
                read_stacked(weights, first..first + out.len() / stride, stride, out)
            })?;
            let block = Matrix::with_stride(block, rows.len(), k, stride);
            work(rows, block);
        }
        Ok(())
    })
}

/// Rows `rows` of stacked weights as f32, `stride` values apart.
fn read_stacked(weights: &[&Weight], rows: Range<usize>, stride: usize, out: &mut [f32]) -> Result<()> {
    let mut first = 0;
    for weight in weights {
        let [n, k] = weight.shape();
        let own = rows.start.max(first)..rows.end.min(first + n);
        if !own.is_empty() {
            let out = &mut out[(own.start - rows.start) * stride..(own.end - rows.start) * stride];
            let own = own.start - first..own.end - first;
            if stride == k {
                weight.read_rows(own, out)?;
            } else {
                for (row, out) in own.zip(out.chunks_mut(stride)) {
                    weight.read_rows(row..row + 1, &mut out[..k])?;
                }
            }
        }
        first += n;
    }
    Ok(())
}

/// y [T, N] = x [T, K] · Wᵀ for a T so small that dequantizing W is most of the work.
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
    vectorized(
        #[inline(always)]
        || {
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
        },
    )
}
