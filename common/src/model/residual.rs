//! How a branch joins the residual stream: y = x + multiplier · after(branch(before(x))), for x [T, C], with an
//! RMS norm before the branch, after it, or both.

use super::activations::ActivationSizes;
use super::layer::ResidualConfig;
use super::pass::Rowwise;
use super::weight_reader::WeightReader;
use crate::Result;
use crate::device::{Tensor, Vector};
use crate::kernels::rms_norm;

/// The norms around a branch.
pub(super) struct Residual {
    before: Option<Vector>,
    after: Option<Vector>,
    multiplier: f32,
}

impl Residual {
    pub(super) fn load(config: &ResidualConfig, weights: &WeightReader) -> Result<Self> {
        let norm = |norm: &Option<_>| norm.as_ref().map(|norm| weights.norm(norm)).transpose();
        Ok(Self { before: norm(&config.before)?, after: norm(&config.after)?, multiplier: config.multiplier })
    }

    /// The branch's input, [T, C].
    pub(super) fn enter(&self, x: &Tensor, pass: &Rowwise) -> Result<Tensor> {
        match &self.before {
            Some(norm) => rms_norm::forward(x, norm, pass.epsilon),
            None => Ok(x.clone()),
        }
    }

    /// What the last product of the branch adds itself to: x, where nothing comes between.
    pub(super) fn added_to<'a>(&self, x: &'a Tensor) -> Option<&'a Tensor> {
        self.is_direct().then_some(x)
    }

    /// y from x and the result of the branch's last product, which has been added to [`Residual::added_to`];
    /// and what the backward needs of it.
    pub(super) fn leave(
        &self,
        x: &Tensor,
        branch: Tensor,
        pass: &Rowwise,
    ) -> Result<(Tensor, Option<Tensor>)> {
        if self.is_direct() {
            return Ok((branch, None));
        }
        let (added, kept) = match &self.after {
            Some(norm) => (rms_norm::forward(&branch, norm, pass.epsilon)?, Some(branch)),
            None => (branch, None),
        };
        let added = if self.multiplier == 1.0 { added } else { added.scale(self.multiplier)? };
        Ok((x.add(&added)?, kept))
    }

    /// The gradient [T, C] of the branch's result from dy and what was kept.
    pub(super) fn leave_backward(
        &self,
        dy: &Tensor,
        kept: Option<&Tensor>,
        pass: &Rowwise,
    ) -> Result<Tensor> {
        let dy = if self.multiplier == 1.0 { dy.clone() } else { dy.scale(self.multiplier)? };
        match (&self.after, kept) {
            (Some(norm), Some(branch)) => Ok(rms_norm::backward(&dy, branch, norm, None, pass.epsilon)?.0),
            _ => Ok(dy),
        }
    }

    /// dx [T, C] from the gradient of the branch's input and dy, which goes around the branch; and the branch's
    /// input once more.
    pub(super) fn enter_backward(
        &self,
        dinput: &Tensor,
        x: &Tensor,
        dy: &Tensor,
        pass: &Rowwise,
    ) -> Result<(Tensor, Tensor)> {
        match &self.before {
            Some(norm) => rms_norm::backward(dinput, x, norm, Some(dy), pass.epsilon),
            None => Ok((dy.add(dinput)?, x.clone())),
        }
    }

    /// Whether the branch's last product adds to x itself.
    fn is_direct(&self) -> bool {
        self.after.is_none() && self.multiplier == 1.0
    }

    /// The norms' weights, as they lie on the device.
    #[cfg(test)]
    pub(super) fn norms(&self) -> impl Iterator<Item = &Vector> {
        self.before.iter().chain(&self.after)
    }
}

/// Bytes of a token that the backward of a branch of width C needs of how it joined the residual stream.
pub(super) fn kept_per_token(config: &ResidualConfig, width: usize, sizes: ActivationSizes) -> u64 {
    if config.after.is_some() { sizes.values(width) } else { 0 }
}

/// Bytes per token that the backward holds on a GPU at its fullest for the norm after the branch and its
/// multiplier, besides what a plain branch holds.
pub(super) fn working_per_token(config: &ResidualConfig, width: usize) -> u64 {
    let is_direct = config.after.is_none() && config.multiplier == 1.0;
    if is_direct { 0 } else { 3 * ActivationSizes::GPU.values(width) }
}
