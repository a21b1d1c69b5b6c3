//! What all layers of a pass share.

use super::{Batch, Config};
use crate::device::{Device, Vector};
use crate::kernels::attention::Sequences;
use crate::kernels::linear::Parameters;
use crate::kernels::rope::Angles;
use crate::{Result, error};

/// A pass of a batch through a model.
pub(super) struct Pass<'a> {
    /// Added to the mean of squares in RMS norms.
    pub epsilon: f32,
    /// The angles of each of the model's rotary embeddings.
    pub angles: Vec<Angles>,
    /// The sequences of the batch, which attention keeps apart.
    pub sequences: Sequences,
    /// The adapters' values; `None` leaves the adapters out.
    pub parameters: Option<Parameters<'a>>,
    /// In a backward whose loss counts the balance of experts: its slopes ([`crate::kernels::routing::Balance`]).
    pub balance: Option<Vec<f32>>,
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
            epsilon: config.epsilon,
            angles,
            sequences,
            parameters: parameters.map(|values| Parameters { values, dropout }),
            balance: None,
        })
    }

    /// The adapters' values, for a backward.
    pub(super) fn trained(&self) -> Result<Parameters<'a>> {
        self.parameters.ok_or_else(|| error!(Bug, "a backward without parameters"))
    }
}
