//! A mixture of experts: a router sends each token to a few gated linear units, whose outputs are added up with the
//! router's weights; some families add an expert that every token goes to.
//!
//! T tokens, S slots (a token has one for each of its experts), width C, inner width F of an expert.

use super::activations::ActivationSizes;
use super::gated::{self, Gated};
use super::layer::{MixtureConfig, SharedExpertConfig};
use super::stack::{Stack, StackMut};
use super::weight_reader::WeightReader;
use crate::device::{Tensor, Vector};
use crate::kernels::glu::{self, Activation, WeightedBackward};
use crate::kernels::grouped_linear::{self, GroupedLinear};
use crate::kernels::linear::{self, Linear, Parameters};
use crate::kernels::routing::{self, Routing, RoutingSpec, Rows};
use crate::kernels::sigmoid;
use crate::{Result, error};

/// The weights of the mixture.
pub(super) struct Mixture {
    /// [E, C]
    pub router: Linear,
    routing: RoutingSpec,
    /// [2F, C] of each expert.
    gate_up: GroupedLinear,
    /// [C, F] of each expert.
    down: GroupedLinear,
    activation: Activation,
    shared: Option<SharedExpert>,
}

/// The expert that every token goes to.
struct SharedExpert {
    /// [1, C]
    gate: Linear,
    expert: Gated,
}

/// What the backward needs besides the mixture's input.
pub(super) struct Kept {
    routing: Routing,
    /// [S, 2F]
    gate_up: Tensor,
    /// x·Aᵀ of gate and up, and of down; that of down is computed again where the mixture runs a second time for the
    /// backward.
    lora_hidden: [Option<Tensor>; 2],
    shared: Option<SharedKept>,
}

struct SharedKept {
    /// The weight of each token, `[T]`.
    weights: Vector,
    /// x·Aᵀ of the gate.
    lora_hidden: Option<Tensor>,
    expert: gated::Kept,
}

/// What is left of the backward once the gradient of the input is known: the adapters that see the input.
pub(super) struct Rest {
    routing: Routing,
    dgate_up: Tensor,
    d_lora_hidden: Option<Tensor>,
    lora_hidden: Option<Tensor>,
    shared: Option<SharedRest>,
}

struct SharedRest {
    dlogits: Tensor,
    gate: linear::Backward,
    lora_hidden: Option<Tensor>,
    expert: gated::Rest,
}

impl Mixture {
    pub(super) fn load(config: &MixtureConfig, weights: &WeightReader) -> Result<Self> {
        let shared = |shared: &SharedExpertConfig| -> Result<SharedExpert> {
            Ok(SharedExpert {
                gate: weights.stack(&shared.gate)?,
                expert: Gated::load(&shared.expert, weights)?,
            })
        };
        Ok(Self {
            router: weights.router(&config.router)?,
            routing: config.routing,
            gate_up: weights.experts(&config.gate_up)?,
            down: weights.experts(&config.down)?,
            activation: config.activation,
            shared: config.shared.as_ref().map(shared).transpose()?,
        })
    }

    /// y [T, C] from x [T, C], plus a matrix like y where there is one, and what the backward needs.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        parameters: Option<Parameters>,
    ) -> Result<(Tensor, Kept)> {
        let routing = routing::forward(x, &self.router, self.routing)?;
        let gate_up = grouped_linear::forward((x, Rows::Tokens), &self.gate_up, &routing, parameters)?;
        let hidden = glu::forward_weighted(&gate_up.y, self.activation, routing.weights())?;
        let down = grouped_linear::forward((&hidden, Rows::Slots), &self.down, &routing, parameters)?;
        drop(hidden);
        let mut y = routing::sum_slots(&down.y, &routing, residual)?;
        let lora_hidden = [gate_up.lora_hidden, down.lora_hidden];
        let mut shared = None;
        if let Some(SharedExpert { gate, expert }) = &self.shared {
            let logits = linear::forward(x, gate, parameters, None)?;
            let weights = sigmoid::forward(&logits.y)?;
            let (sum, kept) = expert.forward(x.clone(), Some(&weights), Some(&y), parameters)?;
            y = sum;
            shared = Some(SharedKept { weights, lora_hidden: logits.lora_hidden, expert: kept });
        }
        Ok((y, Kept { routing, gate_up: gate_up.y, lora_hidden, shared }))
    }

    /// What the backward needs: the forward without its last products.
    pub(super) fn recompute(&self, x: &Tensor, parameters: Option<Parameters>) -> Result<Kept> {
        let routing = routing::forward(x, &self.router, self.routing)?;
        let gate_up = grouped_linear::forward((x, Rows::Tokens), &self.gate_up, &routing, parameters)?;
        let shared = self.shared.as_ref().map(|SharedExpert { gate, expert }| -> Result<SharedKept> {
            let logits = linear::forward(x, gate, parameters, None)?;
            Ok(SharedKept {
                weights: sigmoid::forward(&logits.y)?,
                lora_hidden: logits.lora_hidden,
                expert: expert.recompute(x, parameters)?,
            })
        });
        let shared = shared.transpose()?;
        Ok(Kept { routing, gate_up: gate_up.y, lora_hidden: [gate_up.lora_hidden, None], shared })
    }

    /// dx [T, C] from dy [T, C] and the slopes of the experts' balance `[E]`, where that counts, and what is left to
    /// do; adds the gradients of the adapters of down to `gradients`.
    pub(super) fn backward(
        &self,
        dy: Tensor,
        kept: Kept,
        balance: Option<&[f32]>,
        parameters: Parameters,
        gradients: &mut Vector,
    ) -> Result<(Tensor, Rest)> {
        let Kept { routing, gate_up, lora_hidden: [hidden_gate_up, hidden_down], shared } = kept;
        let down = grouped_linear::backward((&dy, Rows::Tokens), &self.down, &routing, parameters)?;
        let grouped_linear::Backward { dx: dhidden, d_lora_hidden } = down;
        let WeightedBackward { dgate_up, h, dweights } =
            glu::backward_weighted(dhidden, gate_up, self.activation, routing.weights())?;
        grouped_linear::adapter_gradients(
            (&dy, Rows::Tokens, d_lora_hidden.as_ref()),
            (&h, Rows::Slots, hidden_down.as_ref()),
            &self.down,
            &routing,
            parameters,
            gradients,
        )?;
        drop((h, hidden_down));
        let grouped_linear::Backward { dx: dslots, d_lora_hidden } =
            grouped_linear::backward((&dgate_up, Rows::Slots), &self.gate_up, &routing, parameters)?;
        let dx = routing::sum_slots(&dslots, &routing, None)?;
        drop(dslots);
        let mut dx = routing::backward(&dweights, balance, &routing, &self.router, dx)?;
        let mut rest = None;
        if let (Some(SharedExpert { gate, expert }), Some(kept)) = (&self.shared, shared) {
            let (weights, lora_hidden) = (kept.weights, kept.lora_hidden);
            let (dinput, dweights, of_expert) =
                expert.backward(dy, Some(&weights), kept.expert, parameters, gradients)?;
            dx = dx.add(&dinput)?;
            drop(dinput);
            let dweights = dweights.ok_or_else(|| error!(Bug, "a shared expert without weights"))?;
            let dlogits = sigmoid::backward(&dweights, &weights)?;
            let mut backward = linear::backward(&dlogits, gate, parameters, true)?;
            dx = dx.add(&backward.take_dx()?)?;
            rest = Some(SharedRest { dlogits, gate: backward, lora_hidden, expert: of_expert });
        }
        Ok((dx, Rest { routing, dgate_up, d_lora_hidden, lora_hidden: hidden_gate_up, shared: rest }))
    }

    /// Adds the gradients of the adapters that see the mixture's input x [T, C] to `gradients`.
    pub(super) fn gradients(
        &self,
        rest: &Rest,
        x: &Tensor,
        parameters: Parameters,
        gradients: &mut Vector,
    ) -> Result<()> {
        let Rest { routing, dgate_up, d_lora_hidden, lora_hidden, shared } = rest;
        grouped_linear::adapter_gradients(
            (dgate_up, Rows::Slots, d_lora_hidden.as_ref()),
            (x, Rows::Tokens, lora_hidden.as_ref()),
            &self.gate_up,
            routing,
            parameters,
            gradients,
        )?;
        let (Some(SharedExpert { gate, expert }), Some(rest)) = (&self.shared, shared) else { return Ok(()) };
        let inputs = (x, rest.lora_hidden.as_ref());
        linear::adapter_gradients((&rest.dlogits, &rest.gate), inputs, gate, parameters, gradients)?;
        expert.gradients(&rest.expert, x, parameters, gradients)
    }

    /// The stacks of linear layers, in the order of [`super::FeedForwardKind::stacks`].
    pub(super) fn stacks(&self) -> Vec<Stack<'_>> {
        let mut stacks = vec![Stack::Experts(&self.gate_up), Stack::Experts(&self.down)];
        if let Some(SharedExpert { gate, expert }) = &self.shared {
            stacks.extend([gate, &expert.gate_up, &expert.down].map(Stack::Linear));
        }
        stacks
    }

    /// The stacks of linear layers, to attach adapters to.
    pub(super) fn stacks_mut(&mut self) -> Vec<StackMut<'_>> {
        let mut stacks = vec![StackMut::Experts(&mut self.gate_up), StackMut::Experts(&mut self.down)];
        if let Some(SharedExpert { gate, expert }) = &mut self.shared {
            stacks.extend([gate, &mut expert.gate_up, &mut expert.down].map(StackMut::Linear));
        }
        stacks
    }
}

impl Kept {
    /// Where the tokens went.
    pub(super) fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Bytes that [`Kept`] takes of each token, where the adapters of the stacks have `ranks` ranks; none where the
    /// list ends.
    pub(super) fn bytes_per_token(config: &MixtureConfig, ranks: &[usize], sizes: ActivationSizes) -> u64 {
        let rank = |stack: usize| ranks.get(stack).copied().unwrap_or(0);
        let chosen = config.routing.chosen as u64;
        let slot = sizes.values(2 * config.width)
            + [0, 1].map(|stack| sizes.lora_hidden(rank(stack))).iter().sum::<u64>();
        let shared = config.shared.as_ref().map_or(0, |shared| {
            size_of::<f32>() as u64
                + sizes.lora_hidden(rank(2))
                + gated::Kept::bytes_per_token(&shared.expert, [rank(3), rank(4)], sizes)
        });
        routing::bytes_per_token(config.routing) + chosen * slot + shared
    }

    /// Bytes per token that the backward holds on a GPU at its fullest besides [`Kept`] and its input, in 16 bits: the
    /// gradients of the hidden values, which those are written over, those of the slots' inputs, and those of the
    /// residual stream; then what the shared expert holds.
    pub(super) fn working_per_token(config: &MixtureConfig, width: usize) -> u64 {
        let slots = config.routing.chosen * (config.width + width);
        let shared = config.shared.as_ref();
        let shared = shared.map_or(0, |shared| gated::Kept::working_per_token(&shared.expert, width));
        2 * (slots + 3 * width) as u64 + shared
    }

    /// Bytes that an adapter's dropout works with for each token on a GPU; experts have none.
    pub(super) fn dropout_per_token(config: &MixtureConfig) -> u64 {
        config.shared.as_ref().map_or(0, |shared| gated::Kept::dropout_per_token(&shared.expert))
    }

    /// Bytes of the largest buffer of a token on a GPU.
    pub(super) fn largest_per_token(config: &MixtureConfig, width: usize) -> u64 {
        let shared = config.shared.as_ref();
        let shared = shared.map_or(0, |shared| gated::Kept::largest_per_token(&shared.expert));
        shared.max(2 * (config.routing.chosen * width.max(2 * config.width)) as u64)
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let tensors = [&self.gate_up].into_iter().chain(self.lora_hidden.iter().flatten());
        let shared = self.shared.as_ref().map_or(0, |shared| {
            let lora_hidden = shared.lora_hidden.as_ref().map_or(0, Tensor::bytes);
            4 * shared.weights.len() as u64 + lora_hidden + shared.expert.bytes()
        });
        self.routing.bytes() + tensors.map(Tensor::bytes).sum::<u64>() + shared
    }
}
