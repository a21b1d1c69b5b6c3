//! The language-model head: final norm, projection to the vocabulary and cross-entropy, on chosen rows only.

use std::ops::Range;

use super::pass::slices;
use super::{Batch, Objective, PendingLogits};
use crate::Result;
use crate::device::{AssembledRows, PendingValues, Tensor, Vector};
use crate::kernels::linear::{self, Linear};
use crate::kernels::linear_cross_entropy::{self, Losses, RowWeights};
use crate::kernels::rms_norm;

/// The last norm and the projection to the vocabulary.
pub(super) struct Head {
    /// [C]
    pub norm: Vector,
    /// [V, C]; the embedding table where the head is tied.
    pub projection: Linear,
    /// Logits become c·tanh(logits / c), where there is such a c.
    pub softcap: Option<f32>,
    /// Added to the mean of squares in the norm.
    pub epsilon: f32,
}

/// A loss that a GPU may still be computing.
pub(super) enum PendingLoss {
    /// The losses of the rows of each slice, of which the sum is the loss.
    Rows(Vec<Losses>),
    /// The loss.
    Known(f64),
}

impl PendingLoss {
    /// Waits for the loss.
    pub(super) fn value(self) -> Result<f64> {
        match self {
            Self::Rows(losses) => losses.into_iter().map(Losses::sum).sum(),
            Self::Known(loss) => Ok(loss),
        }
    }
}

impl Head {
    /// Logits [n, V] of rows x [n, C].
    pub(super) fn logits(&self, x: &Tensor) -> Result<PendingLogits> {
        let values = match x.shape()[0] {
            0 => PendingValues::Owned(Vec::new()),
            _ => {
                let normed = rms_norm::forward(x, &self.norm, self.epsilon)?;
                linear::project(&normed, &self.projection)?
            }
        };
        Ok(PendingLogits::new(values, self.projection.outputs(), self.softcap))
    }

    /// The cross-entropies of rows x [n, C] and their targets [n].
    pub(super) fn cross_entropy(&self, x: &Tensor, targets: &[u32]) -> Result<Losses> {
        let normed = rms_norm::forward(x, &self.norm, self.epsilon)?;
        self.cross_entropy_of(&normed, targets)
    }

    fn cross_entropy_of(&self, normed: &Tensor, targets: &[u32]) -> Result<Losses> {
        linear_cross_entropy::forward(normed, &self.projection, targets, self.softcap)
    }

    /// The objective's loss of the supervised rows of `hidden` [T, C], and its gradient [T, C]; computed `slice` rows
    /// at a time where that is given. An objective that must see the log-probabilities first has the logits made
    /// twice; they never exist whole.
    pub(super) fn loss_and_gradient(
        &self,
        hidden: Tensor,
        batch: &Batch,
        objective: &dyn Objective,
        slice: Option<usize>,
    ) -> Result<(PendingLoss, Tensor)> {
        let Some(slice) = slice.filter(|rows| *rows < batch.len()) else {
            let rows = hidden.gather_rows(&batch.supervised)?;
            drop(hidden);
            return self.gradient_of_rows(&rows, batch, objective);
        };
        let slices = || slices(batch.len(), slice).map(|tokens| Slice::new(batch, tokens));
        let mut known = None;
        if objective.equal_weight().is_none() {
            let mut losses = Vec::new();
            for slice in slices() {
                losses.extend(self.cross_entropy(&slice.rows_of(&hidden)?, slice.targets)?.to_vec()?);
            }
            known = Some(weights_of(objective, &losses)?);
        }
        let (mut pending, mut dx) = (Vec::new(), AssembledRows::like(&hidden)?);
        for slice in slices() {
            let weights = match (&known, objective.equal_weight()) {
                (Some((_, weights)), _) => RowWeights::Each(&weights[slice.supervised.clone()]),
                (None, weight) => RowWeights::Equal(weight.unwrap_or(0.0)),
            };
            let (losses, drows) = self.gradient(&slice.rows_of(&hidden)?, slice.targets, weights)?;
            pending.push(losses);
            dx.push(&drows.scatter_rows(&slice.rows, slice.tokens.len())?)?;
        }
        let loss = known.map_or(PendingLoss::Rows(pending), |(loss, _)| PendingLoss::Known(loss));
        Ok((loss, dx.finish()?))
    }

    /// The objective's loss of all supervised rows x [n, C] of a batch, and its gradient [T, C].
    fn gradient_of_rows(
        &self,
        x: &Tensor,
        batch: &Batch,
        objective: &dyn Objective,
    ) -> Result<(PendingLoss, Tensor)> {
        let (loss, dx) = match objective.equal_weight() {
            Some(weight) => {
                let (losses, dx) = self.gradient(x, &batch.targets, RowWeights::Equal(weight))?;
                (PendingLoss::Rows(vec![losses]), dx)
            }
            None => {
                let losses = self.cross_entropy(x, &batch.targets)?.to_vec()?;
                let (loss, weights) = weights_of(objective, &losses)?;
                let (_, dx) = self.gradient(x, &batch.targets, RowWeights::Each(&weights))?;
                (PendingLoss::Known(loss), dx)
            }
        };
        Ok((loss, dx.scatter_rows(&batch.supervised, batch.len())?))
    }

    /// The losses of rows x [n, C], and the gradient [n, C] of their sum with these weights.
    fn gradient(&self, x: &Tensor, targets: &[u32], weights: RowWeights) -> Result<(Losses, Tensor)> {
        let normed = rms_norm::forward(x, &self.norm, self.epsilon)?;
        let (losses, dnormed) = linear_cross_entropy::forward_backward(
            &normed,
            &self.projection,
            targets,
            weights,
            self.softcap,
        )?;
        let (dx, _) = rms_norm::backward(&dnormed, x, &self.norm, None, self.epsilon)?;
        Ok((losses, dx))
    }
}

/// The objective's loss and the weights of rows that have these cross-entropies.
fn weights_of(objective: &dyn Objective, losses: &[f64]) -> Result<(f64, Vec<f32>)> {
    let log_probabilities: Vec<f64> = losses.iter().map(|loss| -loss).collect();
    objective.loss(&log_probabilities)
}

/// Some tokens of a batch, one after the other, and which of them are supervised.
struct Slice<'a> {
    tokens: Range<usize>,
    /// The places of the supervised rows among all those of the batch, which are in ascending order.
    supervised: Range<usize>,
    /// The supervised rows, counted from the first token of the slice.
    rows: Vec<u32>,
    targets: &'a [u32],
}

impl<'a> Slice<'a> {
    fn new(batch: &'a Batch, tokens: Range<usize>) -> Self {
        let place = |token: usize| batch.supervised.partition_point(|&row| (row as usize) < token);
        let supervised = place(tokens.start)..place(tokens.end);
        let rows = batch.supervised[supervised.clone()].iter().map(|row| row - tokens.start as u32);
        Self { rows: rows.collect(), targets: &batch.targets[supervised.clone()], tokens, supervised }
    }

    /// The supervised rows of `hidden` [T, C].
    fn rows_of(&self, hidden: &Tensor) -> Result<Tensor> {
        hidden.rows(self.tokens.clone())?.gather_rows(&self.rows)
    }
}
