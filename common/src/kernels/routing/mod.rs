//! Which experts of a mixture each token goes to (Shazeer et al. 2017), as transformers' routers decide it: the
//! softmax of x·Wᵀ over the experts, of which the largest few are chosen, and divided by their sum where the
//! family does that.
//!
//! A token has a *slot* for each expert that it goes to: S = T·n slots for T tokens and n experts of a token. Slots
//! are ordered by expert, and those of an expert by token, so that an expert's slots are rows that follow each other.

mod balance;
mod cpu;
pub(super) mod cuda;

use std::borrow::Cow;

use super::linear::{self, Linear};
use crate::device::{Tensor, Vector};
use crate::{Result, error};

pub use balance::Balance;

/// How a router chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutingSpec {
    /// E, the experts of a layer.
    pub experts: usize,
    /// How many experts a token goes to.
    pub chosen: usize,
    /// Whether the weights of a token's experts are divided by their sum.
    pub normalized: bool,
}

/// Where the tokens of a pass go.
pub struct Routing {
    spec: RoutingSpec,
    tokens: usize,
    /// The weight of each slot, `[S]`.
    weights: Vector,
    chosen: Chosen,
}

/// The choice, on the device that made it.
enum Chosen {
    /// On the host.
    Cpu(cpu::Chosen),
    /// On a GPU.
    Cuda(Box<cuda::Chosen>),
}

/// Which rows a matrix has beside a [`Routing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// A row for each token, [T, …].
    Tokens,
    /// A row for each slot, in the order of the slots, [S, …].
    Slots,
}

impl Routing {
    /// How the experts were chosen.
    pub fn spec(&self) -> RoutingSpec {
        self.spec
    }

    /// T
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// S
    pub fn slots(&self) -> usize {
        self.tokens * self.spec.chosen
    }

    /// The weight that each slot's output has in its token's, `[S]`.
    pub fn weights(&self) -> &Vector {
        &self.weights
    }

    /// How many rows a matrix has.
    pub fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Slots => self.slots(),
        }
    }

    /// The probabilities of all experts, [T, E], on the host.
    fn probabilities(&self) -> Result<Cow<'_, [f32]>> {
        match &self.chosen {
            Chosen::Cpu(chosen) => Ok(Cow::Borrowed(chosen.probabilities())),
            Chosen::Cuda(chosen) => chosen.probabilities().map(Cow::Owned),
        }
    }

    /// How many slots each expert has, `[E]`.
    fn slots_of_experts(&self) -> Result<Vec<usize>> {
        match &self.chosen {
            Chosen::Cpu(chosen) => Ok(chosen.slots_of_experts()),
            Chosen::Cuda(chosen) => chosen.slots_of_experts(),
        }
    }

    /// The choice on the host.
    pub(super) fn host(&self) -> Result<&cpu::Chosen> {
        match &self.chosen {
            Chosen::Cpu(chosen) => Ok(chosen),
            Chosen::Cuda(_) => Err(error!(Bug, "a routing on the host expected, found one on a GPU")),
        }
    }

    /// The choice on a GPU.
    pub(super) fn on_gpu(&self) -> Result<&cuda::Chosen> {
        match &self.chosen {
            Chosen::Cpu(_) => Err(error!(Bug, "a routing on a GPU expected, found one on the host")),
            Chosen::Cuda(chosen) => Ok(chosen),
        }
    }

    /// Bytes of what is kept on the host.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        4 * self.weights.len() as u64 + self.host().map_or(0, cpu::Chosen::bytes)
    }
}

/// Bytes that a [`Routing`] takes of each token: probabilities, and weight, expert (on a GPU, token) and place of each
/// slot.
pub fn bytes_per_token(spec: RoutingSpec) -> u64 {
    (size_of::<f32>() * spec.experts + (size_of::<f32>() + 2 * size_of::<u32>()) * spec.chosen) as u64
}

/// The experts of x [T, C] for a router with weight [E, C].
pub fn forward(x: &Tensor, router: &Linear, spec: RoutingSpec) -> Result<Routing> {
    let (tokens, _) = x.matrix("routing: x")?;
    if router.outputs() != spec.experts || !(1..=spec.experts).contains(&spec.chosen) {
        return Err(error!(Bug, "routing: {spec:?} of a router of {} experts", router.outputs()));
    }
    match x {
        Tensor::Cpu(_) => {
            let logits = linear::project(x, router)?.wait()?;
            let (chosen, weights) = cpu::choose(logits.into_vec(), spec);
            Ok(Routing { spec, tokens, weights: Vector::Cpu(weights), chosen: Chosen::Cpu(chosen) })
        }
        Tensor::Cuda(x) => {
            let (chosen, weights) = cuda::forward(x, router, spec)?;
            Ok(Routing { spec, tokens, weights, chosen: Chosen::Cuda(Box::new(chosen)) })
        }
    }
}

/// dx [T, C] plus what the router adds to it, from the gradients `[S]` of the slots' weights, and those of the
/// probabilities of the experts, `[E]` for every token, where the experts' balance counts.
pub fn backward(
    dweights: &Vector,
    balance: Option<&[f32]>,
    routing: &Routing,
    router: &Linear,
    dx: Tensor,
) -> Result<Tensor> {
    dx.expect("routing backward: dx", &[routing.tokens, router.inputs()])?;
    if dweights.len() != routing.slots() {
        return Err(error!(
            Bug,
            "routing backward: {} weights for {} slots",
            dweights.len(),
            routing.slots()
        ));
    }
    match dx {
        Tensor::Cpu(_) => {
            let dlogits = cpu::backward(dweights.host()?, balance, routing.host()?, routing.spec);
            let mut sum = dx.to_vec()?;
            linear::add_transposed(&mut sum, &dlogits, routing.tokens, router)?;
            Tensor::from_vec(sum, dx.shape())
        }
        Tensor::Cuda(dx) => {
            cuda::backward(dweights.gpu()?, balance, routing.on_gpu()?, router, dx).map(Tensor::Cuda)
        }
    }
}

/// y [T, C], each row the sum of its token's slots in x [S, C], plus `residual` [T, C] where there is one.
pub fn sum_slots(x: &Tensor, routing: &Routing, residual: Option<&Tensor>) -> Result<Tensor> {
    let (_, c) = x.matrix("sum of slots: x")?;
    x.expect("sum of slots: x", &[routing.slots(), c])?;
    residual.map_or(Ok(()), |residual| residual.expect("sum of slots: residual", &[routing.tokens, c]))?;
    match x {
        Tensor::Cpu(_) => {
            let y = Tensor::from_vec(routing.host()?.sum(&x.host()?, c), &[routing.tokens, c])?;
            residual.map_or(Ok(y.clone()), |residual| residual.add(&y))
        }
        Tensor::Cuda(x) => {
            let residual = residual.map(Tensor::gpu).transpose()?;
            cuda::sum_slots(x, routing.on_gpu()?, routing.tokens, residual).map(Tensor::Cuda)
        }
    }
}

#[cfg(test)]
mod tests;
