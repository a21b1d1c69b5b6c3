//! The loss on the held-out examples.

use std::time::Instant;

use common::Result;
use common::data::passes;
use common::model::Loss;

use crate::data::store::Selection;
use crate::logs::trainer_log::Evaluation;
use crate::run::trainer::Trainer;

/// The number of held-out examples that are in memory at a time.
const LOADED: usize = 256;

impl Trainer {
    /// The mean loss over all supervised tokens of `examples`, without noise or dropout.
    pub fn evaluate(&self, examples: &Selection) -> Result<Evaluation> {
        let begun = Instant::now();
        let mut loss = Loss { sum: 0.0, tokens: 0 };
        let mut count = 0;
        let positions: Vec<usize> = (0..examples.len()).collect();
        for some in positions.chunks(LOADED) {
            passes::losses(
                &self.model,
                &examples.get(some.iter().copied())?,
                self.passes.tokens,
                |_, found| {
                    loss += found;
                    count += 1;
                    Ok(())
                },
            )?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Evaluation { loss: loss.mean(), examples: examples.len(), passes: count, seconds })
    }
}
