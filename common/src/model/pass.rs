//! What all layers of a pass share.

use std::ops::{Deref, Range};

use super::{Batch, Config};
use crate::device::{Device, Vector};
use crate::kernels::attention::Sequences;
use crate::kernels::linear::Parameters;
use crate::kernels::rope::Angles;
use crate::{Result, error};

/// A pass of a batch through a model.
pub(super) struct Pass<'a> {
    /// What does not depend on other rows.
    pub rowwise: Rowwise<'a>,
    /// The angles of each of the model's rotary embeddings.
    pub angles: Vec<Angles>,
    /// The sequences of the batch, which attention keeps apart.
    pub sequences: Sequences,
}

/// What all layers of a pass share and what each row of it can be computed with on its own.
#[derive(Clone)]
pub(super) struct Rowwise<'a> {
    /// Added to the mean of squares in RMS norms.
    pub epsilon: f32,
    /// The adapters' values; `None` leaves the adapters out.
    pub parameters: Option<Parameters<'a>>,
    /// In a backward whose loss counts the balance of experts: its slopes ([`crate::kernels::routing::Balance`]).
    pub balance: Option<Vec<f32>>,
    /// The rows that are computed at a time, where what the feed-forward and the head work with has no room for all.
    pub slice: Option<usize>,
}

impl<'a> Pass<'a> {
    /// A pass of the model that `config` describes. Where each sequence continues a cache of its own, `lens` are their
    /// lengths.
    pub(super) fn new(
        config: &Config,
        batch: &Batch,
        lens: Option<&[usize]>,
        parameters: Option<&'a Vector>,
        device: &Device,
    ) -> Result<Self> {
        let dropout = batch.noise.map_or(Ok(None), |noise| noise.dropout())?;
        let angles = config.ropes.iter().map(|rope| rope.angles(batch, device)).collect::<Result<_>>()?;
        // Layers differ in their windows at most.
        let spec = config.layers.first().map(|layer| layer.attention.spec);
        let spec = spec.ok_or_else(|| error!(Bug, "a model without layers"))?;
        let sequences = match lens {
            Some(lens) => Sequences::continued(&batch.starts, lens, spec, device)?,
            None => Sequences::new(&batch.starts, spec, device)?,
        };
        Ok(Self {
            rowwise: Rowwise {
                epsilon: config.epsilon,
                parameters: parameters.map(|values| Parameters { values, dropout }),
                balance: None,
                slice: None,
            },
            angles,
            sequences,
        })
    }
}

impl<'a> Deref for Pass<'a> {
    type Target = Rowwise<'a>;

    fn deref(&self) -> &Rowwise<'a> {
        &self.rowwise
    }
}

impl<'a> Rowwise<'a> {
    /// What a slice of the rows is computed with, which begins with row `first` and is not cut any further.
    pub(super) fn of_slice(&self, first: usize) -> Self {
        let parameters = self.parameters.map(|parameters| parameters.after_rows(first));
        Self { parameters, slice: None, ..self.clone() }
    }

    /// The adapters' values, for a backward.
    pub(super) fn trained(&self) -> Result<Parameters<'a>> {
        self.parameters.ok_or_else(|| error!(Bug, "a backward without parameters"))
    }
}

/// The slices of `rows` rows, each of `slice` rows but for the last.
pub(super) fn slices(rows: usize, slice: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(slice.max(1)).map(move |first| first..rows.min(first + slice.max(1)))
}
