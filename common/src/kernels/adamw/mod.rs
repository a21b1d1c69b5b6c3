//! AdamW (Loshchilov and Hutter 2019) with torch's arithmetic, and the gradient norm it is clipped
//! by, over one contiguous f32 buffer of all trainable parameters.

mod cpu;
pub(super) mod cuda;

use std::ops::Range;

use crate::device::{Device, Vector};
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
#[derive(Debug)]
pub struct Moments {
    /// Running mean of gradients.
    pub first: Vector,
    /// Running mean of squared gradients.
    pub second: Vector,
    /// Steps taken.
    pub steps: u64,
}

impl Moments {
    /// Moments of `len` parameters before the first step, where the parameters are.
    pub fn new(len: usize, device: &Device) -> Result<Self> {
        Ok(Self { first: Vector::zeros(len, device)?, second: Vector::zeros(len, device)?, steps: 0 })
    }
}

/// What the formula multiplies by in step `steps`.
struct Factors {
    /// 1 − rate · weight decay
    decay: f32,
    /// rate / (1 − β₁ᵗ)
    step_size: f32,
    /// √(1 − β₂ᵗ)
    root_correction: f32,
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
            return Err(error!("adamw: learning rates of {len} parameters expected"));
        }
        if [gradients.len(), moments.first.len(), moments.second.len()] != [len; 3] {
            return Err(error!("adamw: gradients and moments of {len} parameters expected"));
        }
        for (range, learning_rate) in learning_rates {
            let factors = self.factors(moments.steps + 1, *learning_rate);
            match parameters {
                Vector::Cpu(parameters) => {
                    let (first, second) = (moments.first.host_mut()?, moments.second.host_mut()?);
                    let gradients = gradients.host()?;
                    cpu::step(self, range.clone(), &factors, parameters, gradients, scale, first, second);
                }
                Vector::Cuda(parameters) => {
                    let (first, second) = (moments.first.gpu()?, moments.second.gpu()?);
                    let vectors = [parameters, gradients.gpu()?, first, second];
                    cuda::step(self, range, &factors, vectors, scale)?;
                }
            }
        }
        moments.steps += 1;
        Ok(())
    }

    /// The bias corrections in f64, as torch computes them.
    fn factors(&self, steps: u64, learning_rate: f32) -> Factors {
        let correct = |beta: f32| 1.0 - f64::from(beta).powi(steps.min(i32::MAX as u64) as i32);
        Factors {
            decay: 1.0 - learning_rate * self.weight_decay,
            step_size: (f64::from(learning_rate) / correct(self.beta1)) as f32,
            root_correction: correct(self.beta2).sqrt() as f32,
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
