//! AdamW (Loshchilov and Hutter 2019) with torch's arithmetic, and the gradient norm it is clipped
//! by, over one contiguous f32 buffer of all trainable parameters.

mod cpu;

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
        let len = parameters.len();
        if [gradients.len(), moments.first.len(), moments.second.len()] != [len; 3] {
            return Err(error!("adamw: gradients and moments of {len} parameters expected"));
        }
        moments.steps += 1;
        cpu::step(self, parameters, gradients, scale, moments, learning_rate);
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
mod tests {
    use super::*;

    /// Two steps of `torch.optim.AdamW([1.0, -2.0], lr=0.1, weight_decay=0.01)` with gradients
    /// (0.5, −1.5) and (−0.25, 0.75), worked out in f64 from the formula of the paper.
    #[test]
    fn two_steps_by_hand() {
        let optimizer = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
        let mut parameters = vec![1.0f32, -2.0];
        let mut moments = Moments::new(2);
        let (mut p, mut m, mut v) = ([1.0f64, -2.0], [0.0f64; 2], [0.0f64; 2]);
        for (step, gradients) in [[0.5f32, -1.5], [-0.25, 0.75]].into_iter().enumerate() {
            optimizer.step(&mut parameters, &gradients, 1.0, &mut moments, 0.1).unwrap();
            for i in 0..2 {
                let g = f64::from(gradients[i]);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (m_hat, v_hat) = (
                    m[i] / (1.0 - 0.9f64.powi(step as i32 + 1)),
                    v[i] / (1.0 - 0.999f64.powi(step as i32 + 1)),
                );
                p[i] = p[i] * (1.0 - 0.1 * 0.01) - 0.1 * m_hat / (v_hat.sqrt() + 1e-8);
                assert!((f64::from(parameters[i]) - p[i]).abs() < 1e-6, "{parameters:?} against {p:?}");
            }
        }
    }

    #[test]
    fn clipping_is_torchs() {
        assert_eq!(gradient_norm(&[3.0, 4.0]), 5.0);
        assert_eq!(clip_factor(5.0, 1.0), (1.0 / 5.000001) as f32);
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(5.0, 0.0), 1.0);
    }
}
