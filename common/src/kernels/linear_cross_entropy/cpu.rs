//! The reference: a chunk of logits is made, read and, for the backward, overwritten.

use crate::Result;
use crate::kernels::Write;
use crate::kernels::cross_entropy::{self, RowWeights};
use crate::kernels::linear::{Linear, Projection, Weight, multiply, multiply_transposed};

/// Logits that exist at a time: 64 MiB of f32.
const CHUNK_LOGITS: usize = 1 << 24;

/// The rows' losses, chunk by chunk.
pub(super) fn forward(
    x: &[f32],
    head: &Linear,
    targets: &[u32],
    softcap: Option<f32>,
) -> Result<Vec<Vec<f64>>> {
    let mut losses = Vec::new();
    for_chunks(x, head, targets, |_, logits, targets| {
        losses.push(cross_entropy::forward(logits, head.outputs(), targets, softcap)?);
        Ok(())
    })?;
    Ok(losses)
}

/// As [`forward`], and dx [n, C].
pub(super) fn forward_backward(
    x: &[f32],
    head: &Linear,
    targets: &[u32],
    weights: RowWeights,
    softcap: Option<f32>,
) -> Result<(Vec<Vec<f64>>, Vec<f32>)> {
    let (mut losses, mut dx) = (Vec::new(), vec![0.0; x.len()]);
    for_chunks(x, head, targets, |row, logits, targets| {
        let weights = weights.rows(row..row + targets.len());
        losses.push(cross_entropy::forward_backward(logits, head.outputs(), targets, weights, softcap)?);
        let dx = &mut dx[row * head.inputs()..][..targets.len() * head.inputs()];
        multiply_transposed(dx, logits, targets.len(), &projections(head), Write::Overwrite)
    })?;
    Ok((losses, dx))
}

/// Gives `work` the first row, the logits [n, V] and the targets [n] of each chunk.
fn for_chunks(
    x: &[f32],
    head: &Linear,
    targets: &[u32],
    mut work: impl FnMut(usize, &mut [f32], &[u32]) -> Result<()>,
) -> Result<()> {
    let (v, c) = (head.outputs(), head.inputs());
    let rows = (CHUNK_LOGITS / v).max(1);
    let mut logits = vec![0.0; rows.min(targets.len()) * v];
    for (chunk, (x, targets)) in x.chunks(rows * c).zip(targets.chunks(rows)).enumerate() {
        let logits = &mut logits[..targets.len() * v];
        multiply(logits, x, targets.len(), &projections(head))?;
        work(chunk * rows, logits, targets)?;
    }
    Ok(())
}

fn projections(head: &Linear) -> Vec<&Weight> {
    head.projections().iter().map(|Projection { weight, .. }| weight).collect()
}
