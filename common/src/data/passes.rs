//! Packs examples into passes through the model.

use crate::Result;
use crate::model::{Batch, Loss, Model, Sequence};
use crate::text::Example;

/// Cuts a list of examples into passes of at most `tokens` tokens, in order. A longer example is a pass of
/// its own.
pub fn passes(examples: &[Example], tokens: usize) -> impl Iterator<Item = &[Example]> {
    let mut rest = examples;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fitting = rest.iter().take_while(|example| {
            sum += example.tokens.len();
            sum <= tokens
        });
        let count = fitting.count().max(1).min(rest.len());
        let (pass, after) = rest.split_at(count);
        rest = after;
        (!pass.is_empty()).then_some(pass)
    })
}

/// Packs examples into the batch of one pass.
pub fn pack(examples: &[Example]) -> Batch {
    let sequences = examples.iter().map(|e| Sequence { tokens: &e.tokens, trained: &e.trained });
    Batch::pack(sequences, 0)
}

/// Computes the losses of `model` on examples, in passes of at most `tokens` tokens unless one example alone is
/// longer. `each` is called after every pass, with the number of its examples and their loss.
pub fn losses(
    model: &Model,
    examples: &[Example],
    tokens: usize,
    mut each: impl FnMut(usize, Loss) -> Result<()>,
) -> Result<()> {
    passes(examples, tokens).try_for_each(|pass| each(pass.len(), model.loss(&pack(pass))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_keep_the_order_and_lose_nothing() {
        let example = |len: usize| Example { tokens: vec![1; len], trained: vec![true; len] };
        let examples: Vec<Example> = [3, 4, 9, 1, 1].map(example).to_vec();
        let lengths: Vec<Vec<usize>> = passes(&examples, 7)
            .map(|pass| pass.iter().map(|example| example.tokens.len()).collect())
            .collect();
        assert_eq!(lengths, [vec![3, 4], vec![9], vec![1, 1]]);
        assert_eq!(passes(&[], 7).count(), 0);
    }
}
