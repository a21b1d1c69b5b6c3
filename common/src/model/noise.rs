//! What training adds to a pass at random: dropout of the adapters' inputs, and NEFTune's uniform noise on the
//! embeddings.

use crate::Result;
use crate::kernels::dropout::Dropout;
use crate::kernels::embedding;
use crate::kernels::philox::Draws;

/// The stream of the embeddings' noise. Adapters take theirs from the places of their parameters,
/// which never come so far.
const EMBEDDINGS: u32 = u32::MAX;

/// What a pass of training draws at random. Numbers follow from seed, step and place alone, so that
/// blocks that run twice, steps that are cut otherwise and runs that are resumed see the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Seed of the run.
    pub seed: u64,
    /// Index of the optimizer's step.
    pub step: u32,
    /// Tokens of the step in the passes before this one.
    pub first_token: u32,
    /// The share of the adapters' inputs that is dropped, from 0 to below 1.
    pub dropout: f32,
    /// NEFTune's alpha; 0 adds nothing.
    pub neftune_alpha: f32,
}

impl Noise {
    fn draws(&self, stream: u32) -> Draws {
        Draws { seed: self.seed, step: self.step, stream, first_row: self.first_token }
    }

    /// What the adapters' inputs lose.
    pub(super) fn dropout(&self) -> Result<Option<Dropout>> {
        let is_on = self.dropout != 0.0;
        is_on.then(|| Dropout::new(self.dropout, self.draws(0))).transpose()
    }

    /// What is added to embeddings of `width` columns of sequences with these bounds.
    pub(super) fn of_embeddings(&self, starts: &[usize], width: usize) -> Option<embedding::Noise> {
        let alpha = self.neftune_alpha;
        (alpha != 0.0).then(|| embedding::Noise::new(alpha, starts, width, self.draws(EMBEDDINGS)))
    }
}
