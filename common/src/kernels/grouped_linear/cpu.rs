//! The reference: the products of a linear layer, expert by expert.

use std::borrow::Cow;
use std::ops::Range;

use super::{AdapterSlot, GroupedLinear, Parameters, Routing, Rows, Weight};
use crate::Result;
use crate::kernels::Write;
use crate::kernels::linear::{multiply, multiply_transposed};
use crate::kernels::product::{Matrix, MatrixMut, Threads, product};

/// A row of x for each slot, [S, columns].
pub(super) fn slots<'a>(
    x: &'a [f32],
    rows: Rows,
    columns: usize,
    routing: &Routing,
) -> Result<Cow<'a, [f32]>> {
    Ok(match rows {
        Rows::Slots => Cow::Borrowed(x),
        Rows::Tokens => {
            let tokens = routing.host()?.tokens();
            Cow::Owned(tokens.iter().flat_map(|token| &x[token * columns..][..columns]).copied().collect())
        }
    })
}

/// y [S, N] and x·Aᵀ [S, R] from x [S, K].
pub(super) fn forward(
    x: &[f32],
    linear: &GroupedLinear,
    routing: &Routing,
    parameters: Option<Parameters>,
) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
    let (k, n) = (linear.inputs, linear.outputs);
    let mut y = vec![0.0; routing.slots() * n];
    for_experts(linear, routing, |_, slots, weights| {
        let t = slots.len();
        multiply(&mut y[slots.start * n..slots.end * n], &x[slots.start * k..slots.end * k], t, weights)
    })?;
    let Some(parameters) = parameters else { return Ok((y, None)) };
    let hidden = lora_hidden(x, linear, routing, parameters)?;
    let values = parameters.values.host()?;
    for_adapters(linear, routing, |adapter, slots, _, b| {
        let (t, r) = (slots.len(), adapter.rank);
        let hidden = Matrix::new(&hidden[slots.start * r..slots.end * r], t, r);
        let y = MatrixMut::new(&mut y[slots.start * n..slots.end * n], t, n);
        product(y, Write::Add, adapter.scale, hidden, Matrix::new(&values[b], n, r).t(), Threads::All);
    })?;
    Ok((y, Some(hidden)))
}

/// x·Aᵀ [S, R]
pub(super) fn lora_hidden(
    x: &[f32],
    linear: &GroupedLinear,
    routing: &Routing,
    parameters: Parameters,
) -> Result<Vec<f32>> {
    let (k, values) = (linear.inputs, parameters.values.host()?);
    let mut hidden = vec![0.0; routing.slots() * linear.rank()];
    for_adapters(linear, routing, |adapter, slots, a, _| {
        let (t, r) = (slots.len(), adapter.rank);
        let x = Matrix::new(&x[slots.start * k..slots.end * k], t, k);
        let out = MatrixMut::new(&mut hidden[slots.start * r..slots.end * r], t, r);
        product(out, Write::Overwrite, 1.0, x, Matrix::new(&values[a], r, k).t(), Threads::All);
    })?;
    Ok(hidden)
}

/// dx [S, K] and scale·dy·B [S, R] from dy [S, N].
pub(super) fn backward(
    dy: &[f32],
    linear: &GroupedLinear,
    routing: &Routing,
    parameters: Parameters,
) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
    let (k, n) = (linear.inputs, linear.outputs);
    let mut dx = vec![0.0; routing.slots() * k];
    for_experts(linear, routing, |_, slots, weights| {
        let (dx, dy) = (&mut dx[slots.start * k..slots.end * k], &dy[slots.start * n..slots.end * n]);
        multiply_transposed(dx, dy, slots.len(), weights, Write::Overwrite)
    })?;
    if linear.adapter.is_none() {
        return Ok((dx, None));
    }
    let values = parameters.values.host()?;
    let mut d_lora_hidden = vec![0.0; routing.slots() * linear.rank()];
    for_adapters(linear, routing, |adapter, slots, a, b| {
        let (t, r) = (slots.len(), adapter.rank);
        let dy = Matrix::new(&dy[slots.start * n..slots.end * n], t, n);
        let out = &mut d_lora_hidden[slots.start * r..slots.end * r];
        let b = Matrix::new(&values[b], n, r);
        product(MatrixMut::new(out, t, r), Write::Overwrite, adapter.scale, dy, b, Threads::All);
        let dx = MatrixMut::new(&mut dx[slots.start * k..slots.end * k], t, k);
        let a = Matrix::new(&values[a], r, k);
        product(dx, Write::Add, 1.0, Matrix::new(out, t, r), a, Threads::All);
    })?;
    Ok((dx, Some(d_lora_hidden)))
}

/// Adds dA += d_lora_hiddenᵀ·x and dB += scale·dyᵀ·lora_hidden, expert by expert.
pub(super) fn adapter_gradients(
    (dy, d_lora_hidden): (&[f32], &[f32]),
    (x, lora_hidden): (&[f32], &[f32]),
    linear: &GroupedLinear,
    routing: &Routing,
    gradients: &mut [f32],
) -> Result<()> {
    let (k, n) = (linear.inputs, linear.outputs);
    for_adapters(linear, routing, |adapter, slots, a, b| {
        let (t, r) = (slots.len(), adapter.rank);
        let of = |columns: usize| slots.start * columns..slots.end * columns;
        let x = Matrix::new(&x[of(k)], t, k);
        let dy = Matrix::new(&dy[of(n)], t, n);
        let lora_hidden = Matrix::new(&lora_hidden[of(r)], t, r);
        let d_lora_hidden = Matrix::new(&d_lora_hidden[of(r)], t, r);
        let da = MatrixMut::new(&mut gradients[a], r, k);
        product(da, Write::Add, 1.0, d_lora_hidden.t(), x, Threads::All);
        let db = MatrixMut::new(&mut gradients[b], n, r);
        product(db, Write::Add, adapter.scale, dy.t(), lora_hidden, Threads::All);
    })
}

/// Gives `work` each expert that has slots: which it is, its slots, and its weights.
fn for_experts(
    linear: &GroupedLinear,
    routing: &Routing,
    mut work: impl FnMut(usize, Range<usize>, &[&Weight]) -> Result<()>,
) -> Result<()> {
    let chosen = routing.host()?;
    for (expert, weights) in linear.weights.iter().enumerate() {
        let slots = chosen.of_expert(expert);
        if !slots.is_empty() {
            work(expert, slots, &weights.iter().collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

/// Gives `work` the adapter of each expert that has slots: how it counts, the slots, and where its A [R, K] and
/// its B [N, R] lie.
fn for_adapters(
    linear: &GroupedLinear,
    routing: &Routing,
    mut work: impl FnMut(&AdapterSlot, Range<usize>, Range<usize>, Range<usize>),
) -> Result<()> {
    let Some(adapter) = &linear.adapter else { return Ok(()) };
    let [a_len, b_len] = [linear.inputs, linear.outputs].map(|columns| columns * adapter.rank);
    for_experts(linear, routing, |expert, slots, _| {
        let [a, b] = [(&adapter.a, a_len), (&adapter.b, b_len)].map(|(all, len)| {
            let start = all.start + expert * len;
            start..start + len
        });
        work(adapter, slots, a, b);
        Ok(())
    })
}
