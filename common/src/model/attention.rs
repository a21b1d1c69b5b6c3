//! The attention branch of a layer: query, key and value, norms of heads where the family has them, rotation,
//! attention, output. How it joins the residual stream x [T, C] is in [`super::residual`].
//!
//! T tokens, width C, H query heads and K key and value heads of D elements.

use super::activations::ActivationSizes;
use super::cache::EarlierInBlock;
use super::layer::AttentionConfig;
use super::pass::Pass;
use super::residual::{self, Residual};
use super::stack::{Stack, StackMut};
use super::weight_reader::WeightReader;
use crate::Result;
use crate::device::{Tensor, Vector};
use crate::kernels::attention::{self, Attended, AttentionSpec};
use crate::kernels::linear::{self, Linear};
use crate::kernels::rms_norm::{self, HeadNorms};
use crate::kernels::rope::{self, RotatedHeads};

/// The weights of the branch.
pub(super) struct Attention {
    residual: Residual,
    /// Query, key and value, stacked: [(H + 2K)·D, C].
    pub qkv: Linear,
    head_norms: Option<HeadNorms>,
    /// [C, H·D]
    pub output: Linear,
    spec: AttentionSpec,
    /// Index of the rotary embedding.
    rope: usize,
    /// Queries and keys are rotated, values are not.
    rotated: RotatedHeads,
}

/// What the backward needs besides the branch's input. The norm's output is computed again from data that
/// is read anyway.
pub(super) struct Kept {
    /// [T, (H + 2K)·D] before the norms of heads, where there are any.
    raw_qkv: Option<Tensor>,
    /// [T, (H + 2K)·D], queries and keys rotated.
    qkv: Tensor,
    attended: Attended,
    /// x·Aᵀ of query, key and value, and of the output.
    lora_hidden: [Option<Tensor>; 2],
    /// The output [T, C] before its norm, where it has one.
    output: Option<Tensor>,
}

impl Attention {
    pub(super) fn load(config: &AttentionConfig, weights: &WeightReader) -> Result<Self> {
        let heads = config.spec.heads;
        let head_norms = config.head_norms.as_ref().map(|norms| {
            let (sizes, [query, key]) = (norms.sizes(heads), norms.weights());
            let [(queries, _), (keys, _)] = sizes;
            HeadNorms::new(weights.repeated_norms(&[(query, queries), (key, keys)])?, sizes)
        });
        let head_norms = head_norms.transpose()?;
        Ok(Self {
            residual: Residual::load(&config.residual, weights)?,
            qkv: weights.stack(&config.qkv)?,
            head_norms,
            output: weights.stack(&config.output)?,
            spec: config.spec,
            rope: config.rope,
            rotated: RotatedHeads {
                count: heads.queries + heads.keys,
                size: heads.size,
                pairs: config.pairs,
            },
        })
    }

    /// y [T, C] = x + attention(x), and what the backward needs. Where the branch runs a second time for
    /// the backward, all of it does: y is the feed-forward's input.
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass, earlier: EarlierInBlock) -> Result<(Tensor, Kept)> {
        let input = self.residual.enter(x, pass)?;
        let raw = linear::forward(&input, &self.qkv, pass.parameters, None)?;
        let (raw_qkv, qkv) = match &self.head_norms {
            Some(norms) => {
                let normed = rms_norm::forward_heads(&raw.y, norms, pass.epsilon)?;
                (Some(raw.y), normed)
            }
            None => (None, raw.y),
        };
        let qkv = rope::forward(&qkv, self.rotated, &pass.angles[self.rope])?;
        let attended = match earlier {
            EarlierInBlock::Shared(past) => attention::forward(&qkv, self.spec, &pass.sequences, past)?,
            EarlierInBlock::Each(mut pasts) => {
                attention::extend(&qkv, self.spec, &pass.sequences, &mut pasts)?
            }
        };
        let around = self.residual.added_to(x);
        let output = linear::forward(&attended.output, &self.output, pass.parameters, around)?;
        let lora_hidden = [raw.lora_hidden, output.lora_hidden];
        let (y, output) = self.residual.leave(x, output.y, pass)?;
        Ok((y, Kept { raw_qkv, qkv, attended, lora_hidden, output }))
    }

    /// dx [T, C] from dy [T, C] and the branch's input; adds the adapters' gradients to `gradients`. Below
    /// the first adapter dx is not needed, and not computed. What was kept is given up piece by piece, so
    /// that its memory serves the gradients.
    pub(super) fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        kept: Kept,
        pass: &Pass,
        gradients: &mut Vector,
        needs_dx: bool,
    ) -> Result<Option<Tensor>> {
        let parameters = pass.trained()?;
        let Kept { raw_qkv, qkv, attended, lora_hidden: [hidden_qkv, hidden_output], output } = kept;

        let doutput = self.residual.leave_backward(dy, output.as_ref(), pass)?;
        drop(output);
        let mut output = linear::backward(&doutput, &self.output, parameters, true)?;
        let inputs = (&attended.output, hidden_output.as_ref());
        linear::adapter_gradients((&doutput, &output), inputs, &self.output, parameters, gradients)?;
        drop(doutput);
        let dqkv = attention::backward(&output.take_dx()?, &qkv, &attended, self.spec, &pass.sequences)?;
        drop((qkv, attended));
        let mut dqkv = rope::backward(&dqkv, self.rotated, &pass.angles[self.rope])?;
        if let (Some(norms), Some(raw)) = (&self.head_norms, &raw_qkv) {
            dqkv = rms_norm::backward_heads(&dqkv, raw, norms, pass.epsilon)?;
        }
        let mut qkv = linear::backward(&dqkv, &self.qkv, parameters, needs_dx)?;
        let (dx, input) = match needs_dx {
            true => {
                let (dx, input) = self.residual.enter_backward(&qkv.take_dx()?, x, dy, pass)?;
                (Some(dx), input)
            }
            false => (None, self.residual.enter(x, pass)?),
        };
        let inputs = (&input, hidden_qkv.as_ref());
        linear::adapter_gradients((&dqkv, &qkv), inputs, &self.qkv, parameters, gradients)?;
        Ok(dx)
    }

    /// The stacks of linear layers, in the order of the forward.
    pub(super) fn stacks(&self) -> [Stack<'_>; 2] {
        [Stack::Linear(&self.qkv), Stack::Linear(&self.output)]
    }

    /// The stacks of linear layers, to attach adapters to.
    pub(super) fn stacks_mut(&mut self) -> [StackMut<'_>; 2] {
        [StackMut::Linear(&mut self.qkv), StackMut::Linear(&mut self.output)]
    }

    /// The norms' weights, as they lie on the device.
    #[cfg(test)]
    pub(super) fn norms(&self) -> impl Iterator<Item = &Vector> {
        self.residual.norms().chain(self.head_norms.iter().map(HeadNorms::weights))
    }
}

impl Kept {
    /// Bytes that [`Kept`] takes of each token of a model of width C, where the adapters of the two stacks have
    /// `ranks` ranks.
    pub(super) fn bytes_per_token(
        config: &AttentionConfig,
        width: usize,
        ranks: [usize; 2],
        sizes: ActivationSizes,
    ) -> u64 {
        let heads = config.spec.heads;
        let qkv = heads.width() * if config.head_norms.is_some() { 2 } else { 1 };
        let log_sums = (size_of::<f32>() * heads.queries) as u64;
        sizes.values(qkv + heads.queries * heads.size)
            + log_sums
            + residual::kept_per_token(&config.residual, width, sizes)
            + ranks.iter().map(|&ranks| sizes.lora_hidden(ranks)).sum::<u64>()
    }

    /// Bytes per token that the backward holds on a GPU at its fullest besides [`Kept`] and its input: the
    /// gradients of the residual stream before and after it, of the attention's output, and of query, key
    /// and value before and after rotation, in 16 bits; parts of those of keys and values in f32.
    pub(super) fn working_per_token(config: &AttentionConfig, width: usize) -> u64 {
        const PARTS: usize = 2;
        let heads = config.spec.heads;
        let in_16_bits = 2 * width + heads.queries * heads.size + 2 * heads.width();
        let in_f32 = PARTS * 2 * heads.keys * heads.size;
        residual::working_per_token(&config.residual, width)
            + (2 * in_16_bits + size_of::<f32>() * in_f32) as u64
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let tensors = [&self.qkv, &self.attended.output].into_iter();
        let tensors = tensors.chain(&self.raw_qkv).chain(&self.output);
        let tensors = tensors.chain(self.lora_hidden.iter().flatten());
        tensors.map(Tensor::bytes).sum::<u64>() + (size_of::<f32>() * self.attended.log_sums.len()) as u64
    }
}
