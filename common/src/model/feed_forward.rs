//! The feed-forward branch of a layer: a gated linear unit ([`super::gated`]) or a mixture of experts
//! ([`super::mixture`]). How it joins the residual stream x [T, C] is in [`super::residual`].

use super::activations::ActivationSizes;
use super::gated::{self, Gated};
use super::layer::{FeedForwardConfig, FeedForwardKind};
use super::mixture::{self, Mixture};
use super::pass::{Rowwise, slices};
use super::residual::{self, Residual};
use super::stack::{Stack, StackMut};
use super::weight_reader::WeightReader;
use crate::device::{AssembledRows, Tensor, Vector};
use crate::kernels::routing::Routing;
use crate::{Result, error};

/// The weights of the branch.
pub(super) struct FeedForward {
    residual: Residual,
    kind: Kind,
}

enum Kind {
    Gated(Box<Gated>),
    Mixture(Box<Mixture>),
}

/// What the backward needs besides the branch's input. The output of the norm before it is computed again from data
/// that is read anyway.
pub(super) struct Kept {
    kind: KeptKind,
    /// The output [T, C] before its norm, where it has one.
    output: Option<Tensor>,
}

enum KeptKind {
    Gated(gated::Kept),
    Mixture(Box<mixture::Kept>),
    /// Nothing is kept: the backward runs the branch again, in slices of this many rows.
    Slices(usize),
}

impl FeedForward {
    pub(super) fn load(config: &FeedForwardConfig, weights: &WeightReader) -> Result<Self> {
        let kind = match &config.kind {
            FeedForwardKind::Gated(gated) => Kind::Gated(Box::new(Gated::load(gated, weights)?)),
            FeedForwardKind::Mixture(mixture) => Kind::Mixture(Box::new(Mixture::load(mixture, weights)?)),
        };
        Ok(Self { residual: Residual::load(&config.residual, weights)?, kind })
    }

    /// y [T, C] = x + feed_forward(x), and what the backward needs.
    pub(super) fn forward(&self, x: &Tensor, pass: &Rowwise) -> Result<(Tensor, Kept)> {
        if let Some(rows) = self.slice(x, pass) {
            let mut y = AssembledRows::like(x)?;
            for slice in slices(x.shape()[0], rows) {
                let pass = pass.of_slice(slice.start);
                y.push(&self.forward(&x.rows(slice)?, &pass)?.0)?;
            }
            return Ok((y.finish()?, Kept { kind: KeptKind::Slices(rows), output: None }));
        }
        let (input, around) = (self.residual.enter(x, pass)?, self.residual.added_to(x));
        let (branch, kind) = match &self.kind {
            Kind::Gated(gated) => {
                let (y, kept) = gated.forward(input, None, around, pass.parameters)?;
                (y, KeptKind::Gated(kept))
            }
            Kind::Mixture(mixture) => {
                let (y, kept) = mixture.forward(&input, around, pass.parameters)?;
                (y, KeptKind::Mixture(Box::new(kept)))
            }
        };
        let (y, output) = self.residual.leave(x, branch, pass)?;
        Ok((y, Kept { kind, output }))
    }

    /// What the backward needs: all of the forward but, where its result alone is not needed, its last product.
    pub(super) fn recompute(&self, x: &Tensor, pass: &Rowwise) -> Result<Kept> {
        if let Some(rows) = self.slice(x, pass) {
            return Ok(Kept { kind: KeptKind::Slices(rows), output: None });
        }
        if self.residual.added_to(x).is_none() {
            return self.forward(x, pass).map(|(_, kept)| kept);
        }
        let input = self.residual.enter(x, pass)?;
        let kind = match &self.kind {
            Kind::Gated(gated) => KeptKind::Gated(gated.recompute(&input, pass.parameters)?),
            Kind::Mixture(mixture) => {
                KeptKind::Mixture(Box::new(mixture.recompute(&input, pass.parameters)?))
            }
        };
        Ok(Kept { kind, output: None })
    }

    /// dx [T, C] from dy [T, C] and the branch's input; adds the adapters' gradients to `gradients`. What
    /// was kept is given up piece by piece, so that its memory serves the gradients.
    pub(super) fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        kept: Kept,
        pass: &Rowwise,
        gradients: &mut Vector,
    ) -> Result<Tensor> {
        let parameters = pass.trained()?;
        let Kept { kind, output } = kept;
        if let KeptKind::Slices(rows) = kind {
            let mut dx = AssembledRows::like(dy)?;
            for slice in slices(x.shape()[0], rows) {
                let pass = pass.of_slice(slice.start);
                let (dy, x) = (dy.rows(slice.clone())?, x.rows(slice)?);
                let kept = self.recompute(&x, &pass)?;
                dx.push(&self.backward(&dy, &x, kept, &pass, gradients)?)?;
            }
            return dx.finish();
        }
        let dbranch = self.residual.leave_backward(dy, output.as_ref(), pass)?;
        drop(output);
        match (&self.kind, kind) {
            (Kind::Gated(gated), KeptKind::Gated(kept)) => {
                let (dinput, _, rest) = gated.backward(dbranch, None, kept, parameters, gradients)?;
                let (dx, input) = self.residual.enter_backward(&dinput, x, dy, pass)?;
                drop(dinput);
                gated.gradients(&rest, &input, parameters, gradients)?;
                Ok(dx)
            }
            (Kind::Mixture(mixture), KeptKind::Mixture(kept)) => {
                let balance = pass.balance.as_deref();
                let (dinput, rest) = mixture.backward(dbranch, *kept, balance, parameters, gradients)?;
                let (dx, input) = self.residual.enter_backward(&dinput, x, dy, pass)?;
                drop(dinput);
                mixture.gradients(&rest, &input, parameters, gradients)?;
                Ok(dx)
            }
            _ => Err(error!(Bug, "a feed-forward kept what another kind keeps")),
        }
    }

    /// The rows of a slice, where the branch runs in slices. The experts of a mixture share the tokens of the whole pass.
    fn slice(&self, x: &Tensor, pass: &Rowwise) -> Option<usize> {
        match self.kind {
            Kind::Gated(_) => pass.slice.filter(|rows| *rows < x.shape()[0]),
            Kind::Mixture(_) => None,
        }
    }

    /// The stacks of linear layers, in the order of [`FeedForwardKind::stacks`].
    pub(super) fn stacks(&self) -> Vec<Stack<'_>> {
        match &self.kind {
            Kind::Gated(gated) => vec![Stack::Linear(&gated.gate_up), Stack::Linear(&gated.down)],
            Kind::Mixture(mixture) => mixture.stacks(),
        }
    }

    /// The stacks of linear layers, to attach adapters to.
    pub(super) fn stacks_mut(&mut self) -> Vec<StackMut<'_>> {
        match &mut self.kind {
            Kind::Gated(gated) => {
                vec![StackMut::Linear(&mut gated.gate_up), StackMut::Linear(&mut gated.down)]
            }
            Kind::Mixture(mixture) => mixture.stacks_mut(),
        }
    }

    /// The router of the experts, where there is one.
    #[cfg(test)]
    pub(super) fn router(&self) -> Option<&crate::kernels::linear::Linear> {
        match &self.kind {
            Kind::Gated(_) => None,
            Kind::Mixture(mixture) => Some(&mixture.router),
        }
    }

    /// The norms' weights, as they lie on the device.
    #[cfg(test)]
    pub(super) fn norms(&self) -> impl Iterator<Item = &Vector> {
        self.residual.norms()
    }
}

impl Kept {
    /// Where the tokens went, in a mixture of experts.
    pub(super) fn routing(&self) -> Option<&Routing> {
        match &self.kind {
            KeptKind::Gated(_) | KeptKind::Slices(_) => None,
            KeptKind::Mixture(kept) => Some(kept.routing()),
        }
    }

    /// Bytes that [`Kept`] takes of each token of a model of width C, where the adapters of the stacks have
    /// `ranks` ranks; none where the list ends.
    pub(super) fn bytes_per_token(
        config: &FeedForwardConfig,
        width: usize,
        ranks: &[usize],
        sizes: ActivationSizes,
    ) -> u64 {
        let kind = match &config.kind {
            FeedForwardKind::Gated(gated) => {
                let rank = |stack: usize| ranks.get(stack).copied().unwrap_or(0);
                gated::Kept::bytes_per_token(gated, [rank(0), rank(1)], sizes)
            }
            FeedForwardKind::Mixture(mixture) => mixture::Kept::bytes_per_token(mixture, ranks, sizes),
        };
        kind + residual::kept_per_token(&config.residual, width, sizes)
    }

    /// Bytes per token that the backward holds on a GPU at its fullest besides [`Kept`] and its input.
    pub(super) fn working_per_token(config: &FeedForwardConfig, width: usize) -> u64 {
        let kind = match &config.kind {
            FeedForwardKind::Gated(gated) => gated::Kept::working_per_token(gated, width),
            FeedForwardKind::Mixture(mixture) => mixture::Kept::working_per_token(mixture, width),
        };
        residual::working_per_token(&config.residual, width) + kind
    }

    /// Bytes that an adapter's dropout works with for each token on a GPU.
    pub(super) fn dropout_per_token(config: &FeedForwardConfig) -> u64 {
        match &config.kind {
            FeedForwardKind::Gated(gated) => gated::Kept::dropout_per_token(gated),
            FeedForwardKind::Mixture(mixture) => mixture::Kept::dropout_per_token(mixture),
        }
    }

    /// Bytes of the largest buffer of a token on a GPU.
    pub(super) fn largest_per_token(config: &FeedForwardConfig, width: usize) -> u64 {
        match &config.kind {
            FeedForwardKind::Gated(gated) => gated::Kept::largest_per_token(gated),
            FeedForwardKind::Mixture(mixture) => mixture::Kept::largest_per_token(mixture, width),
        }
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let kind = match &self.kind {
            KeptKind::Gated(kept) => kept.bytes(),
            KeptKind::Mixture(kept) => kept.bytes(),
            KeptKind::Slices(_) => 0,
        };
        kind + self.output.as_ref().map_or(0, Tensor::bytes)
    }
}
