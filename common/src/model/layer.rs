//! A layer of a decoder as data: what its two branches are made of, and the names and shapes of their
//! weights. Families differ here and nowhere else.

use super::modules::{Module, NormWeight};
use crate::kernels::attention::AttentionSpec;

/// One layer: a branch of attention and a branch of feed-forward, each added to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerConfig {
    /// The first branch.
    pub attention: AttentionConfig,
    /// The second branch.
    pub feed_forward: FeedForwardConfig,
}

/// The attention of a layer, with H query heads and K key and value heads of D elements.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionConfig {
    /// The RMS norm of the branch's input, [C].
    pub norm: NormWeight,
    /// Query, key and value: [H·D, C], [K·D, C], [K·D, C].
    pub qkv: Vec<Module>,
    /// RMS norms of every query head and of every key head, [D] each, where the family has them.
    pub head_norms: Option<[NormWeight; 2]>,
    /// The output, [C, H·D].
    pub output: Vec<Module>,
    /// Heads, the scale of their scores, and how far a token sees.
    pub spec: AttentionSpec,
    /// Which of the model's rotary embeddings turns queries and keys: an index of [`super::Config::ropes`].
    pub rope: usize,
}

/// The feed-forward of a layer: SwiGLU of width F.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedForwardConfig {
    /// The RMS norm of the branch's input, [C].
    pub norm: NormWeight,
    /// Gate and up: [F, C] each.
    pub gate_up: Vec<Module>,
    /// Down, [C, F].
    pub down: Vec<Module>,
    /// F
    pub width: usize,
}

impl LayerConfig {
    /// The linear layers in the order of the forward; those of one input are stacked into one product.
    pub fn stacks(&self) -> impl Iterator<Item = &[Module]> {
        let Self { attention, feed_forward } = self;
        [&attention.qkv, &attention.output, &feed_forward.gate_up, &feed_forward.down]
            .into_iter()
            .map(Vec::as_slice)
    }

    /// Every norm, once.
    pub fn norms(&self) -> impl Iterator<Item = &NormWeight> {
        [&self.attention.norm, &self.feed_forward.norm]
            .into_iter()
            .chain(self.attention.head_norms.iter().flatten())
    }

    /// Elements of every vector of norm weights as it lies on a device, where the norms of heads are one
    /// vector that has each head's.
    pub(super) fn norm_lengths(&self) -> impl Iterator<Item = usize> {
        let Self { attention, feed_forward } = self;
        let heads = attention.spec.heads;
        let head_norms = attention.head_norms.as_ref();
        let head_norms = head_norms.map(|[query, key]| heads.queries * query.len + heads.keys * key.len);
        [attention.norm.len, feed_forward.norm.len].into_iter().chain(head_norms)
    }
}
