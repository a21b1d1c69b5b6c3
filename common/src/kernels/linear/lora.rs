//! The adapters' products on the host. The A's of a stack follow each other in the buffer of parameters, so that
//! they are one matrix [ΣR, K] and the three products with it run once. Where dropout gives each adapter an
//! input of its own, they run once for each.

use std::ops::Range;

use super::{AdapterSlot, Linear, Parameters};
use crate::Result;
use crate::kernels::Write;
use crate::kernels::dropout::{self, Dropout};
use crate::kernels::product::{Matrix, MatrixMut, Threads, product};

/// Returns x·Aᵀ [T, ΣR] and adds `scale·(x·Aᵀ)·Bᵀ` to y [T, ΣN].
pub(super) fn add_outputs(
    y: &mut [f32],
    x: &[f32],
    t: usize,
    linear: &Linear,
    parameters: Parameters,
) -> Result<Vec<f32>> {
    let (n, ranks) = (linear.outputs, linear.ranks());
    let values = parameters.values.host()?;
    let lora_hidden = lora_hidden(x, t, linear, parameters)?;
    for (columns, rank_columns, adapter) in slots(linear) {
        let b = Matrix::new(&values[adapter.b.clone()], columns.len(), adapter.rank);
        let lora_hidden = Matrix::with_stride(&lora_hidden[rank_columns.start..], t, adapter.rank, ranks);
        let out = MatrixMut::with_stride(&mut y[columns.start..], t, columns.len(), n);
        product(out, Write::Add, adapter.scale, lora_hidden, b.t(), Threads::All);
    }
    Ok(lora_hidden)
}

/// x·Aᵀ [T, ΣR]
pub(super) fn lora_hidden(x: &[f32], t: usize, linear: &Linear, parameters: Parameters) -> Result<Vec<f32>> {
    let (k, ranks) = (linear.inputs, linear.ranks());
    let values = parameters.values.host()?;
    let mut lora_hidden = vec![0.0; t * ranks];
    for_inputs(linear, x, parameters.dropout, |x, a, rank_columns| {
        let a = Matrix::new(&values[a], rank_columns.len(), k);
        let out =
            MatrixMut::with_stride(&mut lora_hidden[rank_columns.start..], t, rank_columns.len(), ranks);
        product(out, Write::Overwrite, 1.0, Matrix::new(x, t, k), a.t(), Threads::All);
    });
    Ok(lora_hidden)
}

/// d_lora_hidden = scale·dy·B [T, ΣR]
pub(super) fn backward(dy: &[f32], t: usize, linear: &Linear, parameters: Parameters) -> Result<Vec<f32>> {
    let (n, ranks) = (linear.outputs, linear.ranks());
    let values = parameters.values.host()?;
    let mut d_lora_hidden = vec![0.0; t * ranks];
    for (columns, rank_columns, adapter) in slots(linear) {
        let dy = Matrix::with_stride(&dy[columns.start..], t, columns.len(), n);
        let b = Matrix::new(&values[adapter.b.clone()], columns.len(), adapter.rank);
        let out = MatrixMut::with_stride(&mut d_lora_hidden[rank_columns.start..], t, adapter.rank, ranks);
        product(out, Write::Overwrite, adapter.scale, dy, b, Threads::All);
    }
    Ok(d_lora_hidden)
}

/// dx [T, K] += d_lora_hidden·A, of what was not dropped.
pub(super) fn add_inputs(
    dx: &mut [f32],
    d_lora_hidden: &[f32],
    t: usize,
    linear: &Linear,
    parameters: Parameters,
) -> Result<()> {
    let (k, ranks) = (linear.inputs, linear.ranks());
    let values = parameters.values.host()?;
    for_masks(linear, parameters.dropout, |a, rank_columns, dropout| {
        let a = Matrix::new(&values[a], rank_columns.len(), k);
        let d_lora_hidden =
            Matrix::with_stride(&d_lora_hidden[rank_columns.start..], t, rank_columns.len(), ranks);
        match dropout {
            None => product(MatrixMut::new(dx, t, k), Write::Add, 1.0, d_lora_hidden, a, Threads::All),
            Some(dropout) => {
                let mut dropped = vec![0.0; t * k];
                product(
                    MatrixMut::new(&mut dropped, t, k),
                    Write::Overwrite,
                    1.0,
                    d_lora_hidden,
                    a,
                    Threads::All,
                );
                dropout::apply(dx, &dropped, k, &dropout, Write::Add);
            }
        }
    });
    Ok(())
}

/// `dA += dlowᵀ·x` and `dB += scale·dyᵀ·(x·Aᵀ)`.
pub(super) fn gradients(
    (dy, d_lora_hidden): (&[f32], &[f32]),
    (x, lora_hidden): (&[f32], &[f32]),
    t: usize,
    linear: &Linear,
    dropout: Option<Dropout>,
    gradients: &mut [f32],
) {
    let (k, n, ranks) = (linear.inputs, linear.outputs, linear.ranks());
    for (columns, rank_columns, adapter) in slots(linear) {
        let dy = Matrix::with_stride(&dy[columns.start..], t, columns.len(), n);
        let lora_hidden = Matrix::with_stride(&lora_hidden[rank_columns.start..], t, adapter.rank, ranks);
        let db = MatrixMut::new(&mut gradients[adapter.b.clone()], columns.len(), adapter.rank);
        product(db, Write::Add, adapter.scale, dy.t(), lora_hidden, Threads::All);
    }
    for_inputs(linear, x, dropout, |x, a, rank_columns| {
        let d_lora_hidden =
            Matrix::with_stride(&d_lora_hidden[rank_columns.start..], t, rank_columns.len(), ranks);
        let da = MatrixMut::new(&mut gradients[a], rank_columns.len(), k);
        product(da, Write::Add, 1.0, d_lora_hidden.t(), Matrix::new(x, t, k), Threads::All);
    });
}

/// Gives `work` each input that adapters see: x once for all A's of the stack, or what dropout leaves of
/// it for each; with where these A's lie, [ΣR, K], and their columns of x·Aᵀ.
fn for_inputs(
    linear: &Linear,
    x: &[f32],
    dropout: Option<Dropout>,
    mut work: impl FnMut(&[f32], Range<usize>, Range<usize>),
) {
    let mut left = dropout.map_or(Vec::new(), |_| vec![0.0; x.len()]);
    for_masks(linear, dropout, |a, rank_columns, dropout| match dropout {
        None => work(x, a, rank_columns),
        Some(dropout) => {
            dropout::apply(&mut left, x, linear.inputs, &dropout, Write::Overwrite);
            work(&left, a, rank_columns);
        }
    });
}

/// Gives `work` all A's of the stack at once, or each with its mask where there is dropout: where they lie,
/// [ΣR, K], and their columns of x·Aᵀ.
fn for_masks(
    linear: &Linear,
    dropout: Option<Dropout>,
    mut work: impl FnMut(Range<usize>, Range<usize>, Option<Dropout>),
) {
    let Some(dropout) = dropout else { return work(stacked_a(linear), 0..linear.ranks(), None) };
    for (_, rank_columns, adapter) in slots(linear) {
        work(adapter.a.clone(), rank_columns, Some(adapter.dropout(&dropout)));
    }
}

/// Where all A's of the stack lie, [ΣR, K].
pub(super) fn stacked_a(linear: &Linear) -> Range<usize> {
    let mut slots = linear.projections.iter().filter_map(|projection| projection.adapter.as_ref());
    let Some(first) = slots.next() else { return 0..0 };
    first.a.start..slots.next_back().unwrap_or(first).a.end
}

/// Each adapter with its columns of y and of x·Aᵀ.
pub(super) fn slots(linear: &Linear) -> impl Iterator<Item = (Range<usize>, Range<usize>, &AdapterSlot)> {
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
