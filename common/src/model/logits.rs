//! Logits of chosen rows, which a GPU may still be computing while the host continues.

use crate::Result;
use crate::device::{HostValues, PendingValues};
use crate::kernels::cross_entropy;

/// Logits of rows that were asked for. A GPU may still be computing them.
pub struct PendingLogits {
    values: PendingValues,
    vocabulary: usize,
    /// Logits become c·tanh(logits / c), where there is such a c.
    softcap: Option<f32>,
}

impl PendingLogits {
    pub(super) fn new(values: PendingValues, vocabulary: usize, softcap: Option<f32>) -> Self {
        Self { values, vocabulary, softcap }
    }

    /// Returns whether the logits are computed, so that nothing is left to wait for.
    pub fn are_there(&self) -> bool {
        self.values.are_there()
    }

    /// Waits for the logits. Fails where the GPU has failed.
    pub fn wait(self) -> Result<Logits> {
        let Self { values, vocabulary, softcap } = self;
        let mut values = values.wait()?;
        if let Some(softcap) = softcap {
            cross_entropy::cap(&mut values, softcap);
        }
        Ok(Logits { values, vocabulary })
    }
}

/// Logits of several rows.
pub struct Logits {
    /// [rows, V]
    values: HostValues,
    vocabulary: usize,
}

impl Logits {
    /// Returns the logits `[V]` of each row, in their order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocabulary)
    }

    /// Returns the logits of all rows, one after the other, as a vector.
    pub fn into_vec(self) -> Vec<f32> {
        self.values.into_vec()
    }
}

impl AsRef<[f32]> for Logits {
    /// Returns the logits of all rows, one after the other.
    fn as_ref(&self) -> &[f32] {
        &self.values
    }
}
