//! Several adapters of one model: those that are not in use are kept apart, ready to be put back.

use super::block::Block;
use super::stack::DetachedStack;
use super::{Adapters, Model};
use crate::{Result, bail};

/// The adapters of a model that have been taken off it, where a GPU computes with their copies there.
pub struct DetachedAdapters {
    adapters: Adapters,
    stacks: Vec<DetachedStack>,
}

impl Model {
    /// Takes the adapters off the model, without copying any. What is left is the base.
    pub fn detach_adapters(&mut self) -> DetachedAdapters {
        let adapters = std::mem::replace(&mut self.adapters, Adapters::none());
        let stacks = self.blocks.iter_mut().flat_map(Block::stacks_mut);
        DetachedAdapters { adapters, stacks: stacks.map(|mut stack| stack.detach()).collect() }
    }

    /// Puts adapters that were taken off this model back on it, in the place of any there are, without copying
    /// any.
    pub fn attach_adapters(&mut self, detached: DetachedAdapters) -> Result<()> {
        let mut stacks: Vec<_> = self.blocks.iter_mut().flat_map(Block::stacks_mut).collect();
        if stacks.len() != detached.stacks.len() {
            bail!(Bug, "adapters of {} stacks, and {} in the model", detached.stacks.len(), stacks.len());
        }
        for (stack, detached) in stacks.iter_mut().zip(detached.stacks) {
            stack.attach_detached(detached)?;
        }
        self.adapters = detached.adapters;
        Ok(())
    }
}
