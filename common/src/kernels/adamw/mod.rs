//! AdamW (Loshchilov and Hutter 2019) with torch's arithmetic, and the gradient norm it is clipped
//! by, over one contiguous f32 buffer of all trainable parameters.
//!
//! Moments are kept in f32, or in 8 bits as bitsandbytes' `AdamW8bit` keeps them; the formula is the
//! same, in f32 and with the moments of this step before they are quantized. It is that of
//! bitsandbytes' CPU code; its CUDA kernel decays a weight after the step instead of before it, and
//! gives a negative first moment that rounds to zero the least negative code.

mod cpu;
pub(super) mod cuda;
mod moments;
mod quantized;

use std::ops::Range;

use crate::device::Vector;
use crate::{Result, error};
pub use moments::{LEAST_IN_8_BITS, Moments, MomentsSpec};
use moments::{Part, Storage};
use quantized::Quantized;

/// What stays the same over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

/// The numbers of the formula in one step.
struct Formula {
    /// Multiplies the gradients.
    scale: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    /// 1 − rate · weight decay
    decay: f32,
    /// rate / (1 − β₁ᵗ)
    step_size: f32,
    /// √(1 − β₂ᵗ)
    root_correction: f32,
}

impl Formula {
    /// In the order in which the kernels take them.
    fn numbers(&self) -> [f32; 7] {
        let Self { scale, beta1, beta2, epsilon, decay, step_size, root_correction } = *self;
        [scale, beta1, beta2, epsilon, decay, step_size, root_correction]
    }
}

impl AdamW {
    /// Takes one step: updates parameters and moments. `scale` multiplies the gradients first (the
    /// clipping factor).
    pub fn step(
        &self,
        parameters: &mut Vector,
        gradients: &Vector,
        scale: f32,
        moments: &mut Moments,
        learning_rate: f32,
    ) -> Result<()> {
        let all = 0..parameters.len();
        self.step_at_rates(parameters, gradients, scale, moments, &[(all, learning_rate)])
    }

    /// As [`AdamW::step`], with a learning rate for each of some ranges of the parameters, which
    /// follow each other; what is in none of them stays as it is.
    pub fn step_at_rates(
        &self,
        parameters: &mut Vector,
        gradients: &Vector,
        scale: f32,
        moments: &mut Moments,
        learning_rates: &[(Range<usize>, f32)],
    ) -> Result<()> {
        let len = parameters.len();
        if learning_rates.iter().any(|(range, _)| range.start > range.end || range.end > len) {
            return Err(error!(Bug, "adamw: learning rates of {len} parameters expected"));
        }
        if [gradients.len(), moments.len()] != [len; 2] {
            return Err(error!(Bug, "adamw: gradients and moments of {len} parameters expected"));
        }
        let ranges = || learning_rates.iter().map(|(range, _)| range);
        if let Some(range) = ranges().find(|range| !moments.parts.iter().all(|part| part.can_take(range))) {
            return Err(error!(Bug, "adamw: learning rates of whole tensors expected, found {range:?}"));
        }
        for (range, learning_rate) in learning_rates {
            let formula = self.formula(scale, moments.steps + 1, *learning_rate);
            for part in &mut moments.parts {
                let range = range.start.max(part.range.start)..range.end.min(part.range.end);
                if !range.is_empty() {
                    part.step(&formula, parameters, gradients, range)?;
                }
            }
        }
        moments.steps += 1;
        Ok(())
    }

    /// The bias corrections in f64, as torch computes them.
    fn formula(&self, scale: f32, steps: u64, learning_rate: f32) -> Formula {
        let correct = |beta: f32| 1.0 - f64::from(beta).powi(steps.min(i32::MAX as u64) as i32);
        Formula {
            scale,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            decay: 1.0 - learning_rate * self.weight_decay,
            step_size: (f64::from(learning_rate) / correct(self.beta1)) as f32,
            root_correction: correct(self.beta2).sqrt() as f32,
        }
    }
}

impl Part {
    /// Whether no block lies half in `range` and half outside.
    fn can_take(&self, range: &Range<usize>) -> bool {
        let is_cut =
            |at: usize| self.range.contains(&at) && !(at - self.range.start).is_multiple_of(quantized::BLOCK);
        matches!(self.storage, Storage::Exact { .. }) || !(is_cut(range.start) || is_cut(range.end))
    }

    /// A step of those of its parameters that lie in `range` of all parameters.
    fn step(
        &mut self,
        formula: &Formula,
        parameters: &mut Vector,
        gradients: &Vector,
        range: Range<usize>,
    ) -> Result<()> {
        let own = range.start - self.range.start..range.end - self.range.start;
        match (parameters, &mut self.storage) {
            (Vector::Cpu(parameters), Storage::Exact { first, second }) => {
                let (first, second) = (&mut first.host_mut()?[own.clone()], &mut second.host_mut()?[own]);
                let gradients = &gradients.host()?[range.clone()];
                cpu::step(formula, &mut parameters[range], gradients, first, second);
                Ok(())
            }
            (Vector::Cpu(parameters), Storage::Quantized(Quantized::Cpu(moments))) => {
                let gradients = &gradients.host()?[range.clone()];
                cpu::step_in_8_bits(formula, &mut parameters[range], gradients, moments, own);
                Ok(())
            }
            (Vector::Cuda(parameters), Storage::Exact { first, second }) => {
                let moments = [first.gpu_mut()?, second.gpu_mut()?];
                cuda::step(formula, parameters, gradients.gpu()?, &range, moments, &own)
            }
            (Vector::Cuda(parameters), Storage::Quantized(Quantized::Cuda(moments))) => {
                cuda::step_in_8_bits(formula, parameters, gradients.gpu()?, &range, moments, &own)
            }
            _ => Err(error!(Bug, "adamw: moments and parameters on one device expected")),
        }
    }
}

/// The Euclidean norm of all gradients, summed in f64 in a fixed order.
pub fn gradient_norm(gradients: &Vector) -> Result<f64> {
    match gradients {
        Vector::Cpu(gradients) => Ok(cpu::norm(gradients)),
        Vector::Cuda(gradients) => cuda::norm(gradients),
    }
}

/// torch's `clip_grad_norm_` factor: `min(1, max_norm / (norm + 1e-6))`; 1 where `max_norm` is 0.
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 }
}

#[cfg(test)]
mod tests;
