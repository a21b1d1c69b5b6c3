//! Dropout (Srivastava et al. 2014): `y = mask·x / (1 − p)`, where each element of the mask is 0 with
//! probability p and else 1. The mask is computed from the elements' places wherever it is needed, and
//! never stored.

mod cpu;
pub(in crate::kernels) mod cuda;

use super::Write;
use super::philox::Draws;
use crate::device::Tensor;
use crate::{Error, Result};

pub(in crate::kernels) use cpu::apply;

/// A mask, and with it the scale of what is left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    probability: f32,
    draws: Draws,
}

impl Dropout {
    /// A mask that drops with `probability`, from 0 to below 1.
    pub fn new(probability: f32, draws: Draws) -> Result<Self> {
        match (0.0..1.0).contains(&probability) {
            true => Ok(Self { probability, draws }),
            false => Err(Error::usage(format!("dropout: from 0 to below 1 expected, found {probability}"))),
        }
    }

    /// The mask of another stream of numbers.
    pub(in crate::kernels) fn of_stream(self, stream: u32) -> Self {
        Self { draws: Draws { stream, ..self.draws }, ..self }
    }

    /// The mask of what is left of a matrix after its first rows.
    pub(in crate::kernels) fn after_rows(self, rows: usize) -> Self {
        let first_row = self.draws.first_row.wrapping_add(rows as u32);
        Self { draws: Draws { first_row, ..self.draws }, ..self }
    }

    /// An element is dropped where its number is below this.
    fn threshold(&self) -> u32 {
        (f64::from(self.probability) * 2f64.powi(32)) as u32
    }

    /// 1 / (1 − p)
    fn scale(&self) -> f32 {
        1.0 / (1.0 - self.probability)
    }
}

/// y [T, C] from x [T, C].
pub fn forward(x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
    let (t, c) = x.matrix("dropout: x")?;
    match x {
        Tensor::Cpu(_) => {
            let mut y = vec![0.0; t * c];
            cpu::apply(&mut y, &x.host()?, c, dropout, Write::Overwrite);
            Tensor::from_vec(y, &[t, c])
        }
        Tensor::Cuda(x) => cuda::forward(x, dropout).map(Tensor::Cuda),
    }
}

/// dx [T, C] from dy [T, C]: the forward's mask and scale once more.
pub fn backward(dy: &Tensor, dropout: &Dropout) -> Result<Tensor> {
    forward(dy, dropout)
}

#[cfg(test)]
mod tests;
