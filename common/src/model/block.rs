//! A transformer block: attention and feed-forward, each a branch that is added to the residual stream. The
//! forward and its backward stand side by side.

use super::activations::ActivationSizes;
use super::attention::{self, Attention};
use super::cache::EarlierInBlock;
use super::feed_forward::{self, FeedForward};
use super::layer::LayerConfig;
use super::pass::Pass;
use super::stack::{Stack, StackMut};
use super::weight_reader::WeightReader;
use crate::Result;
use crate::device::{Tensor, Vector};
use crate::kernels::routing::Routing;

/// The weights of a block.
pub(super) struct Block {
    attention: Attention,
    feed_forward: FeedForward,
}

/// What the backward of a block needs besides its input.
pub(super) struct Kept {
    attention: attention::Kept,
    /// The residual stream between the branches, [T, C].
    residual: Tensor,
    feed_forward: feed_forward::Kept,
}

impl Block {
    pub(super) fn load(layer: &LayerConfig, weights: &WeightReader) -> Result<Self> {
        Ok(Self {
            attention: Attention::load(&layer.attention, weights)?,
            feed_forward: FeedForward::load(&layer.feed_forward, weights)?,
        })
    }

    /// y [T, C] from x [T, C], and what the backward needs.
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass, earlier: EarlierInBlock) -> Result<(Tensor, Kept)> {
        let (residual, attention) = self.attention.forward(x, pass, earlier)?;
        let (y, feed_forward) = self.feed_forward.forward(&residual, pass)?;
        Ok((y, Kept { attention, residual, feed_forward }))
    }

    /// What the backward needs, from x [T, C]: the forward a second time, without its last product.
    pub(super) fn recompute(&self, x: &Tensor, pass: &Pass) -> Result<Kept> {
        let (residual, attention) = self.attention.forward(x, pass, EarlierInBlock::NONE)?;
        let feed_forward = self.feed_forward.recompute(&residual, pass)?;
        Ok(Kept { attention, residual, feed_forward })
    }

    /// dx [T, C] from dy [T, C]; adds the adapters' gradients to `gradients`. Below the first adapter dx is
    /// not needed, and not computed.
    pub(super) fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        kept: Kept,
        pass: &Pass,
        gradients: &mut Vector,
        needs_dx: bool,
    ) -> Result<Option<Tensor>> {
        let Kept { attention, residual, feed_forward } = kept;
        let dresidual = self.feed_forward.backward(dy, &residual, feed_forward, pass, gradients)?;
        drop(residual);
        self.attention.backward(&dresidual, x, attention, pass, gradients, needs_dx)
    }

    /// The stacks of linear layers, in the order of [`LayerConfig::stacks`].
    pub(super) fn stacks(&self) -> impl Iterator<Item = Stack<'_>> {
        self.attention.stacks().into_iter().chain(self.feed_forward.stacks())
    }

    /// The stacks of linear layers, to attach adapters to.
    pub(super) fn stacks_mut(&mut self) -> impl Iterator<Item = StackMut<'_>> {
        self.attention.stacks_mut().into_iter().chain(self.feed_forward.stacks_mut())
    }

    /// The router of the experts, where there is one.
    #[cfg(test)]
    pub(super) fn router(&self) -> Option<&crate::kernels::linear::Linear> {
        self.feed_forward.router()
    }

    /// Whether any linear layer has an adapter.
    pub(super) fn has_adapter(&self) -> bool {
        self.stacks().any(Stack::has_adapter)
    }

    /// The norms' weights, as they lie on the device.
    #[cfg(test)]
    pub(super) fn norms(&self) -> impl Iterator<Item = &Vector> {
        self.attention.norms().chain(self.feed_forward.norms())
    }
}

impl Kept {
    /// Where the tokens went, in a layer with experts.
    pub(super) fn routing(&self) -> Option<&Routing> {
        self.feed_forward.routing()
    }

    /// Bytes that [`Kept`] takes of each token of a layer of width C, where the adapters of its stacks have
    /// `ranks` ranks; none where the list ends.
    pub(super) fn bytes_per_token(
        layer: &LayerConfig,
        width: usize,
        ranks: &[usize],
        sizes: ActivationSizes,
    ) -> u64 {
        let of_feed_forward = ranks.get(2..).unwrap_or_default();
        Self::bytes_per_token_in_slices(layer, width, ranks, sizes)
            + feed_forward::Kept::bytes_per_token(&layer.feed_forward, width, of_feed_forward, sizes)
    }

    /// As [`Kept::bytes_per_token`] where the feed-forward keeps nothing and runs again in slices.
    pub(super) fn bytes_per_token_in_slices(
        layer: &LayerConfig,
        width: usize,
        ranks: &[usize],
        sizes: ActivationSizes,
    ) -> u64 {
        let rank = |stack: usize| ranks.get(stack).copied().unwrap_or(0);
        attention::Kept::bytes_per_token(&layer.attention, width, [rank(0), rank(1)], sizes)
            + sizes.values(width)
    }

    /// Bytes per token that the backward of a layer holds on a GPU at its fullest besides [`Kept`] and its
    /// input. What the feed-forward kept is free again when the attention's backward begins.
    pub(super) fn working_per_token(layer: &LayerConfig, width: usize) -> u64 {
        let LayerConfig { attention, feed_forward } = layer;
        let given_up = feed_forward::Kept::bytes_per_token(feed_forward, width, &[], ActivationSizes::GPU);
        let attention = attention::Kept::working_per_token(attention, width).saturating_sub(given_up);
        feed_forward::Kept::working_per_token(feed_forward, width).max(attention)
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.attention.bytes() + self.residual.bytes() + self.feed_forward.bytes()
    }
}
