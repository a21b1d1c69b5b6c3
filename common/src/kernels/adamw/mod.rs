//! AdamW (Loshchilov and Hutter 2019) with torch's arithmetic, and the gradient norm it is clipped
//! by, over one contiguous f32 buffer of all trainable parameters.

mod cpu;

use std::ops::Range;

use crate::{Result, error};

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

/// First and second moments, and the number of steps taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Running mean of gradients.
    pub first: Vec<f32>,
    /// Running mean of squared gradients.
    pub second: Vec<f32>,
    /// Steps taken.
    pub steps: u64,
}

impl Moments {
    /// Moments of `len` parameters before the first step.
    pub fn new(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len], steps: 0 }
    }
}

impl AdamW {
    /// Takes one step: updates parameters and moments. `scale` multiplies the gradients first (the
    /// clipping factor).
    pub fn step(
        &self,
        parameters: &mut [f32],
        gradients: &[f32],
        scale: f32,
        moments: &mut Moments,
        learning_rate: f32,
    ) -> Result<()> {
        self.step_at_rates(parameters, gradients, scale, moments, &[(0..parameters.len(), learning_rate)])
    }

    /// As [`AdamW::step`], with a learning rate for each of some ranges of the parameters, which
    /// follow each other; what is in none of them stays as it is.
    pub fn step_at_rates(
        &self,
        parameters: &mut [f32],
        gradients: &[f32],
        scale: f32,
        moments: &mut Moments,
        learning_rates: &[(Range<usize>, f32)],
    ) -> Result<()> {
        let len = parameters.len();
        if learning_rates.iter().any(|(range, _)| range.start > range.end || range.end > len) {
            return Err(error!("adamw: learning rates of {len} parameters expected"));
        }
        if [gradients.len(), moments.first.len(), moments.second.len()] != [len; 3] {
            return Err(error!("adamw: gradients and moments of {len} parameters expected"));
        }
        moments.steps += 1;
        for (range, learning_rate) in learning_rates {
            cpu::step(self, range.clone(), parameters, gradients, scale, moments, *learning_rate);
        }
        Ok(())
    }
}

/// The Euclidean norm of all gradients, summed in f64 in a fixed order.
pub fn gradient_norm(gradients: &[f32]) -> f64 {
    cpu::norm(gradients)
}

/// torch's `clip_grad_norm_` factor: `min(1, max_norm / (norm + 1e-6))`; 1 where `max_norm` is 0.
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 }
}

#[cfg(test)]
mod tests;
