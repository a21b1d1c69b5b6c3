//! The feed-forward branch of a layer: gate and up, the gated linear unit, down. How it joins the residual
//! stream x [T, C] is in [`super::residual`].
//!
//! T tokens, width C, inner width F.

use super::activations::ActivationSizes;
use super::layer::FeedForwardConfig;
use super::pass::Pass;
use super::residual::{self, Residual};
use super::weight_reader::WeightReader;
use crate::Result;
use crate::device::{Tensor, Vector};
use crate::kernels::glu::{self, Activation};
use crate::kernels::linear::{self, Linear};

/// The weights of the branch.
pub(super) struct FeedForward {
    residual: Residual,
    /// Gate and up, stacked: [2F, C].
    pub gate_up: Linear,
    /// [C, F]
    pub down: Linear,
    activation: Activation,
}

/// What the backward needs besides the branch's input. The outputs of the norm before it and of the gated
/// linear unit are computed again from data that is read anyway.
pub(super) struct Kept {
    /// [T, 2F]
    gate_up: Tensor,
    /// x·Aᵀ of gate and up, and of down; that of down is computed again where the branch runs a second time
    /// for the backward.
    lora_hidden: [Option<Tensor>; 2],
    /// The output [T, C] before its norm, where it has one.
    output: Option<Tensor>,
}

impl FeedForward {
    pub(super) fn load(config: &FeedForwardConfig, weights: &WeightReader) -> Result<Self> {
        Ok(Self {
            residual: Residual::load(&config.residual, weights)?,
            gate_up: weights.stack(&config.gate_up)?,
            down: weights.stack(&config.down)?,
            activation: config.activation,
        })
    }

    /// y [T, C] = x + feed_forward(x), and what the backward needs.
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<(Tensor, Kept)> {
        let input = self.residual.enter(x, pass)?;
        let gate_up = linear::forward(&input, &self.gate_up, pass.parameters, None)?;
        drop(input);
        let hidden = glu::forward(&gate_up.y, self.activation)?;
        let down = linear::forward(&hidden, &self.down, pass.parameters, self.residual.added_to(x))?;
        drop(hidden);
        let lora_hidden = [gate_up.lora_hidden, down.lora_hidden];
        let (y, output) = self.residual.leave(x, down.y, pass)?;
        Ok((y, Kept { gate_up: gate_up.y, lora_hidden, output }))
    }

    /// What the backward needs: all of the forward but, where its result alone is not needed, its last product.
    pub(super) fn recompute(&self, x: &Tensor, pass: &Pass) -> Result<Kept> {
        if self.residual.added_to(x).is_none() {
            return self.forward(x, pass).map(|(_, kept)| kept);
        }
        let input = self.residual.enter(x, pass)?;
        let gate_up = linear::forward(&input, &self.gate_up, pass.parameters, None)?;
        Ok(Kept { gate_up: gate_up.y, lora_hidden: [gate_up.lora_hidden, None], output: None })
    }

    /// dx [T, C] from dy [T, C] and the branch's input; adds the adapters' gradients to `gradients`. What
    /// was kept is given up piece by piece, so that its memory serves the gradients.
    pub(super) fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        kept: Kept,
        pass: &Pass,
        gradients: &mut Vector,
    ) -> Result<Tensor> {
        let parameters = pass.trained()?;
        let Kept { gate_up, lora_hidden: [hidden_gate_up, hidden_down], output } = kept;

        let ddown = self.residual.leave_backward(dy, output.as_ref(), pass)?;
        drop(output);
        let mut down = linear::backward(&ddown, &self.down, parameters, true)?;
        let (dgate_up, hidden) = glu::backward(down.take_dx()?, gate_up, self.activation)?;
        let inputs = (&hidden, hidden_down.as_ref());
        linear::adapter_gradients((&ddown, &down), inputs, &self.down, parameters, gradients)?;
        drop((hidden, ddown));
        let mut gate_up = linear::backward(&dgate_up, &self.gate_up, parameters, true)?;
        let (dx, input) = self.residual.enter_backward(&gate_up.take_dx()?, x, dy, pass)?;
        let inputs = (&input, hidden_gate_up.as_ref());
        linear::adapter_gradients((&dgate_up, &gate_up), inputs, &self.gate_up, parameters, gradients)?;
        Ok(dx)
    }

    /// The stacks of linear layers, in the order of the forward.
    pub(super) fn linears(&self) -> [&Linear; 2] {
        [&self.gate_up, &self.down]
    }

    /// The stacks of linear layers, to attach adapters to.
    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 2] {
        [&mut self.gate_up, &mut self.down]
    }

    /// The norms' weights, as they lie on the device.
    #[cfg(test)]
    pub(super) fn norms(&self) -> impl Iterator<Item = &Vector> {
        self.residual.norms()
    }
}

impl Kept {
    /// Bytes that [`Kept`] takes of each token of a model of width C, where the adapters of the two stacks have
    /// `ranks` ranks.
    pub(super) fn bytes_per_token(
        config: &FeedForwardConfig,
        width: usize,
        ranks: [usize; 2],
        sizes: ActivationSizes,
    ) -> u64 {
        sizes.values(2 * config.width)
            + residual::kept_per_token(&config.residual, width, sizes)
            + ranks.iter().map(|&ranks| sizes.lora_hidden(ranks)).sum::<u64>()
    }

    /// Bytes per token that the backward holds on a GPU at its fullest besides [`Kept`] and its input, in
    /// 16 bits: the gradients of the hidden values, which those are written over, and of the residual
    /// stream. The gradients of gate and up are written over gate and up.
    pub(super) fn working_per_token(config: &FeedForwardConfig, width: usize) -> u64 {
        residual::working_per_token(&config.residual, width) + 2 * (config.width + 3 * width) as u64
    }

    /// Bytes that an adapter's dropout works with for each token on a GPU: what is left of the widest input,
    /// and its gradient.
    pub(super) fn dropout_per_token(config: &FeedForwardConfig) -> u64 {
        2 * 2 * config.width as u64
    }

    /// Bytes of the largest buffer of a token on a GPU.
    pub(super) fn largest_per_token(config: &FeedForwardConfig) -> u64 {
        2 * 2 * config.width as u64
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let tensors = [&self.gate_up].into_iter().chain(&self.output);
        tensors.chain(self.lora_hidden.iter().flatten()).map(Tensor::bytes).sum()
    }
}
