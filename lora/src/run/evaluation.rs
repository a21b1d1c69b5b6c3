//! The loss on the held-out examples.

use std::time::Instant;

use common::Result;
use common::data::passes::{pack, passes};
use common::model::Loss;
use common::world::deal::deal;

use crate::data::store::Selection;
use crate::logs::trainer_log::Evaluation;
use crate::run::trainer::Trainer;

/// The number of held-out examples that are in memory at a time.
const LOADED: usize = 256;

impl Trainer<'_> {
    /// The mean loss over all supervised tokens of `examples`, without noise or dropout.
    pub fn evaluate(&self, examples: &Selection) -> Result<Evaluation> {
        let begun = Instant::now();
        let mut loss = Loss { sum: 0.0, tokens: 0 };
        let mut count = 0u32;
        let dealt = deal(&examples.lengths(), self.world.size());
        let own = dealt.get(self.world.rank()).map_or(&[][..], Vec::as_slice);
        for some in own.chunks(LOADED) {
            for pass in passes(&examples.get(some.iter().copied())?, self.passes.tokens) {
                self.any_has_pass(true)?;
                let found = self.model.loss(&pack(pass));
                // Where another rank was lost, its parts of a sharded base are missing in what was computed.
                self.world.check()?;
                loss += found?;
                count += 1;
            }
        }
        while self.any_has_pass(false)? {
            self.model.accompany_loss()?;
        }
        let [sum, tokens, passes] = self.world.sums([loss.sum, loss.tokens as f64, f64::from(count)])?;
        let loss = Loss { sum, tokens: tokens as usize };
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Evaluation { loss: loss.mean(), examples: examples.len(), passes: passes as usize, seconds })
    }
}
