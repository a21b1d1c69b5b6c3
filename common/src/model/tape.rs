//! A forward that remembers what its backward needs, and the backward.

use super::block::{Block, Kept};
use super::cache::EarlierInBlock;
use super::inputs::Inputs;
use super::pass::Pass;
use super::{Batch, Loss, Model, Objective, Supervised};
use crate::device::cuda::Way;
use crate::device::{Tensor, Vector};
use crate::kernels::routing::Balance;
use crate::{Result, error};

/// What the forward of a batch leaves to its backward, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TapePlan {
    /// How many blocks, from the first, keep only their inputs and run forward again in the backward.
    pub recomputed: usize,
    /// How many of these inputs, from the first, a GPU moves to the host until the backward is near.
    pub offloaded: usize,
    /// Rows that the feed-forward and the head are computed with at a time; `None` for all. The feed-forward then
    /// keeps nothing and runs a second time in every block's backward. Sums over rows are rounded in another way than
    /// with all rows at a time.
    pub slice: Option<usize>,
}

impl From<usize> for TapePlan {
    /// A plan that recomputes this many blocks, from the first, and keeps everything else.
    fn from(recomputed: usize) -> Self {
        Self { recomputed, ..Self::default() }
    }
}

/// What the backward of a batch needs of its forward.
pub struct Tape<'a> {
    batch: &'a Batch,
    pass: Pass<'a>,
    /// The first block with an adapter: no gradient is needed below it.
    first: usize,
    /// The inputs [T, C] of the blocks from `first` on.
    inputs: Inputs,
    /// What these blocks kept; `None` for those that run forward a second time in the backward.
    kept: Vec<Option<Kept>>,
    /// The residual stream after the last block, [T, C].
    hidden: Tensor,
    /// How evenly the experts were used, where the loss counts it.
    balance: Option<Balance>,
}

impl Model {
    /// Runs a batch forward. `plan` says what is kept of it; a number stands for a plan that recomputes this many
    /// blocks.
    pub fn forward<'a>(&'a self, batch: &'a Batch, plan: impl Into<TapePlan>) -> Result<Tape<'a>> {
        let plan = plan.into();
        let mut pass = self.pass(batch, None, self.parameters())?;
        pass.rowwise.slice = plan.slice;
        let first = self.first_with_adapter();
        let mut hidden = self.embed(batch)?;
        let (mut inputs, mut kept) = (Inputs::default(), Vec::new());
        let mut balance = self.config.router_loss.map(|_| Balance::default());
        for index in 0..self.blocks.len() {
            if index >= first {
                inputs.push(&hidden, index < plan.offloaded.min(plan.recomputed))?;
            }
            let forward = |block: &Block| block.forward(&hidden, &pass, EarlierInBlock::NONE);
            let (y, saved) = self.blocks.visit(index, Way::ForwardOfTape, forward)?;
            if let (Some(balance), Some(routing)) = (&mut balance, saved.routing()) {
                balance.add(routing)?;
            }
            if index >= first {
                inputs.release()?;
                kept.push((index >= plan.recomputed).then_some(saved));
            }
            hidden = y;
        }
        Ok(Tape { batch, pass, first, inputs, kept, hidden, balance })
    }

    /// The loss of a batch that ran forward, as `objective` has it; adds its gradients to `gradients`, which
    /// has the layout of [`super::Adapters::values`].
    pub fn backward(
        &self,
        tape: Tape<'_>,
        objective: &dyn Objective,
        gradients: &mut Vector,
    ) -> Result<Loss> {
        let values = &self.adapters.values;
        if values.is_empty() || gradients.len() != values.len() {
            return Err(error!(Bug, "{} gradients expected, found {}", values.len(), gradients.len()));
        }
        let Tape { batch, mut pass, first, mut inputs, mut kept, hidden, balance } = tape;
        let tokens = batch.targets.len();
        if tokens == 0 {
            self.accompany_backward()?;
            return Ok(Loss { sum: 0.0, tokens });
        }
        // Each pass counts by its supervised tokens, so that a pass that is a whole step counts once.
        let mut of_balance = 0.0;
        if let (Some(coefficient), Some(balance)) = (self.config.router_loss, balance) {
            let coefficient = coefficient * tokens as f32;
            of_balance = f64::from(coefficient) * balance.loss();
            pass.rowwise.balance =
                Some(balance.slopes(coefficient * objective.equal_weight().unwrap_or(0.0)));
        }
        let (loss, mut dx) = self.head.loss_and_gradient(hidden, batch, objective, pass.slice)?;
        for index in (first..self.blocks.len()).rev() {
            let (Some(x), Some(saved)) = (inputs.pop()?, kept.pop()) else { break };
            let backward = |block: &Block| {
                let saved = match saved {
                    Some(saved) => saved,
                    None => block.recompute(&x, &pass)?,
                };
                block.backward(&dx, &x, saved, &pass, gradients, index > first)
            };
            match self.blocks.visit(index, Way::Backward { last: first }, backward)? {
                Some(below) => dx = below,
                None => break,
            }
        }
        // Asked for last: a GPU computes all of the pass before it answers.
        Ok(Loss { sum: loss.value()? + of_balance, tokens })
    }

    /// The loss of a batch; adds the gradients of `scale` times its sum to `gradients`.
    pub fn loss_and_gradients(
        &self,
        batch: &Batch,
        scale: f32,
        plan: impl Into<TapePlan>,
        gradients: &mut Vector,
    ) -> Result<Loss> {
        self.backward(self.forward(batch, plan)?, &Supervised { scale }, gradients)
    }

    /// Takes part in a forward and a backward of other ranks, which need this rank's parts of sharded blocks.
    pub fn accompany_training(&self) -> Result<()> {
        self.blocks.accompany(0..self.blocks.len(), Way::ForwardOfTape)?;
        self.accompany_backward()
    }

    fn accompany_backward(&self) -> Result<()> {
        let last = self.first_with_adapter();
        self.blocks.accompany((last..self.blocks.len()).rev(), Way::Backward { last })
    }

    /// The first block with an adapter, or the number of blocks where none has one.
    fn first_with_adapter(&self) -> usize {
        self.blocks.iter().position(|block| block.has_adapter()).unwrap_or(self.blocks.len())
    }
}

#[cfg(test)]
impl Tape<'_> {
    /// Bytes that each block kept besides its input.
    pub(super) fn kept_bytes(&self) -> impl Iterator<Item = u64> {
        self.kept.iter().flatten().map(Kept::bytes)
    }

    /// Bytes of the inputs of all blocks and of the head.
    pub(super) fn input_bytes(&self) -> u64 {
        self.inputs.bytes() + self.hidden.bytes()
    }
}
