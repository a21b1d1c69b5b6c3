//! Cross-entropy of logits against target tokens, forward and backward in one pass over them.

mod cpu;

pub use cpu::cap;

use std::ops::Range;

use crate::{Result, error};

/// `−log softmax(logits)[target]` of each row of logits [n, V], in f64. With a soft-cap c (Gemma 2) the softmax is
/// that of c·tanh(logits / c).
pub fn forward(logits: &[f32], vocabulary: usize, targets: &[u32], softcap: Option<f32>) -> Result<Vec<f64>> {
    check(logits, vocabulary, targets)?;
    Ok(cpu::forward(logits, vocabulary, targets, softcap))
}

/// As [`forward`], and overwrites logits [n, V] with their gradients: `weight · (softmax − one_hot)`, times the slope
/// of the soft-cap, 1 − tanh²(logits / c), where there is one.
pub fn forward_backward(
    logits: &mut [f32],
    vocabulary: usize,
    targets: &[u32],
    weights: RowWeights,
    softcap: Option<f32>,
) -> Result<Vec<f64>> {
    check(logits, vocabulary, targets)?;
    weights.check(targets.len())?;
    Ok(cpu::forward_backward(logits, vocabulary, targets, weights, softcap))
}

/// What the cross-entropies of rows are multiplied with in what is differentiated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RowWeights<'a> {
    /// All rows with the same.
    Equal(f32),
    /// Each row with its own.
    Each(&'a [f32]),
}

impl RowWeights<'_> {
    /// The weight of a row.
    pub fn of(self, row: usize) -> f32 {
        match self {
            Self::Equal(weight) => weight,
            Self::Each(weights) => weights[row],
        }
    }

    /// The weights of some of the rows.
    pub fn rows(self, rows: Range<usize>) -> Self {
        match self {
            Self::Equal(_) => self,
            Self::Each(weights) => Self::Each(&weights[rows]),
        }
    }

    /// Fails unless there is a weight for each of `count` rows.
    pub fn check(self, count: usize) -> Result<()> {
        match self {
            Self::Each(weights) if weights.len() != count => {
                Err(error!(Bug, "cross-entropy: {count} weights expected, found {}", weights.len()))
            }
            _ => Ok(()),
        }
    }
}

fn check(logits: &[f32], vocabulary: usize, targets: &[u32]) -> Result<()> {
    if vocabulary == 0 || logits.len() != targets.len() * vocabulary {
        return Err(error!(Bug, "cross-entropy: {} rows of {vocabulary} expected", targets.len()));
    }
    match targets.iter().find(|&&target| target as usize >= vocabulary) {
        Some(target) => {
            Err(error!(Mismatch, "cross-entropy: token {target} is outside the vocabulary of {vocabulary}"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
