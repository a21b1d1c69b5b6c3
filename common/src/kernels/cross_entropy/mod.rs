//! Cross-entropy of logits against target tokens, forward and backward in one pass over them.

mod cpu;

use crate::{Result, error};

/// Returns the sum of `−log softmax(logits)[target]` over the rows of logits [n, V], each row's
/// term in f64.
pub fn forward(logits: &[f32], vocabulary: usize, targets: &[u32]) -> Result<f64> {
    check(logits, vocabulary, targets)?;
    Ok(cpu::forward(logits, vocabulary, targets))
}

/// As [`forward`], and overwrites logits [n, V] with their gradients: `scale · (softmax − one_hot)`.
pub fn forward_backward(logits: &mut [f32], vocabulary: usize, targets: &[u32], scale: f32) -> Result<f64> {
    check(logits, vocabulary, targets)?;
    Ok(cpu::forward_backward(logits, vocabulary, targets, scale))
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
