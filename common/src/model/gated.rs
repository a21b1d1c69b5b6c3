//! A gated linear unit: gate and up, the activation, down. It is the feed-forward of most models, and the expert
//! that every token goes to in some mixtures, which weighs its rows.
//!
//! T tokens, width C, inner width F.

use super::activations::ActivationSizes;
use super::layer::GatedConfig;
use super::weight_reader::WeightReader;
use crate::Result;
use crate::device::{Tensor, Vector};
use crate::kernels::glu::{self, Activation, WeightedBackward};
use crate::kernels::linear::{self, Linear, Parameters};

/// The weights of the unit.
pub(super) struct Gated {
    /// Gate and up, stacked: [2F, C].
    pub gate_up: Linear,
    /// [C, F]
    pub down: Linear,
    activation: Activation,
}

/// What the backward needs besides the unit's input. The output of the activation is computed again from data that
/// is read anyway.
pub(super) struct Kept {
    /// [T, 2F]
    gate_up: Tensor,
    /// x·Aᵀ of gate and up, and of down; that of down is computed again where the unit runs a second time
    /// for the backward.
    lora_hidden: [Option<Tensor>; 2],
}

/// What is left of the backward once the gradient of the input is known: the adapters of gate and up.
pub(super) struct Rest {
    dgate_up: Tensor,
    backward: linear::Backward,
    lora_hidden: Option<Tensor>,
}

impl Gated {
    pub(super) fn load(config: &GatedConfig, weights: &WeightReader) -> Result<Self> {
        Ok(Self {
            gate_up: weights.stack(&config.gate_up)?,
            down: weights.stack(&config.down)?,
            activation: config.activation,
        })
    }

    /// y [T, C] from x [T, C], plus a matrix like y where there is one, and what the backward needs. Rows of the inner
    /// values count with `weights` `[T]` where there are any. x is given up as early as its memory can serve.
    pub(super) fn forward(
        &self,
        x: Tensor,
        weights: Option<&Vector>,
        residual: Option<&Tensor>,
        parameters: Option<Parameters>,
    ) -> Result<(Tensor, Kept)> {
        let gate_up = linear::forward(&x, &self.gate_up, parameters, None)?;
        drop(x);
        let hidden = match weights {
            None => glu::forward(&gate_up.y, self.activation)?,
            Some(weights) => glu::forward_weighted(&gate_up.y, self.activation, weights)?,
        };
        let down = linear::forward(&hidden, &self.down, parameters, residual)?;
        let lora_hidden = [gate_up.lora_hidden, down.lora_hidden];
        Ok((down.y, Kept { gate_up: gate_up.y, lora_hidden }))
    }

    /// What the backward needs: the forward without its last product.
    pub(super) fn recompute(&self, x: &Tensor, parameters: Option<Parameters>) -> Result<Kept> {
        let gate_up = linear::forward(x, &self.gate_up, parameters, None)?;
        Ok(Kept { gate_up: gate_up.y, lora_hidden: [gate_up.lora_hidden, None] })
    }

    /// dx [T, C] from dy [T, C], the gradients of the rows' weights where there are any, and what is left to do; adds
    /// the gradients of down's adapters to `gradients`.
    pub(super) fn backward(
        &self,
        dy: Tensor,
        weights: Option<&Vector>,
        kept: Kept,
        parameters: Parameters,
        gradients: &mut Vector,
    ) -> Result<(Tensor, Option<Vector>, Rest)> {
        let Kept { gate_up, lora_hidden: [hidden_gate_up, hidden_down] } = kept;
        let mut down = linear::backward(&dy, &self.down, parameters, true)?;
        let (dgate_up, hidden, dweights) = match weights {
            None => {
                let (dgate_up, hidden) = glu::backward(down.take_dx()?, gate_up, self.activation)?;
                (dgate_up, hidden, None)
            }
            Some(weights) => {
                let WeightedBackward { dgate_up, h, dweights } =
                    glu::backward_weighted(down.take_dx()?, gate_up, self.activation, weights)?;
                (dgate_up, h, Some(dweights))
            }
        };
        let inputs = (&hidden, hidden_down.as_ref());
        linear::adapter_gradients((&dy, &down), inputs, &self.down, parameters, gradients)?;
        drop((hidden, dy));
        let mut backward = linear::backward(&dgate_up, &self.gate_up, parameters, true)?;
        let dx = backward.take_dx()?;
        Ok((dx, dweights, Rest { dgate_up, backward, lora_hidden: hidden_gate_up }))
    }

    /// Adds the gradients of the adapters of gate and up to `gradients`, from the unit's input x [T, C].
    pub(super) fn gradients(
        &self,
        rest: &Rest,
        x: &Tensor,
        parameters: Parameters,
        gradients: &mut Vector,
    ) -> Result<()> {
        let inputs = (x, rest.lora_hidden.as_ref());
        linear::adapter_gradients(
            (&rest.dgate_up, &rest.backward),
            inputs,
            &self.gate_up,
            parameters,
            gradients,
        )
    }
}

impl Kept {
    /// Bytes that [`Kept`] takes of each token, where the adapters of the two stacks have `ranks` ranks.
    pub(super) fn bytes_per_token(config: &GatedConfig, ranks: [usize; 2], sizes: ActivationSizes) -> u64 {
        sizes.values(2 * config.width) + ranks.iter().map(|&ranks| sizes.lora_hidden(ranks)).sum::<u64>()
    }

    /// Bytes per token that the backward holds on a GPU at its fullest besides [`Kept`] and its input, in 16 bits: the
    /// gradients of the hidden values, which those are written over, and of the residual stream. The gradients of gate
    /// and up are written over gate and up.
    pub(super) fn working_per_token(config: &GatedConfig, width: usize) -> u64 {
        2 * (config.width + 3 * width) as u64
    }

    /// Bytes that an adapter's dropout works with for each token on a GPU: what is left of the widest input,
    /// and its gradient.
    pub(super) fn dropout_per_token(config: &GatedConfig) -> u64 {
        2 * 2 * config.width as u64
    }

    /// Bytes of the largest buffer of a token on a GPU.
    pub(super) fn largest_per_token(config: &GatedConfig) -> u64 {
        2 * 2 * config.width as u64
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let tensors = [&self.gate_up].into_iter();
        tensors.chain(self.lora_hidden.iter().flatten()).map(Tensor::bytes).sum()
    }
}
