//! The log-probabilities of the letters of answers after each prompt of a subject.
//!
//! The prompts of a subject share their header and shots. The tokens that all of them begin with go
//! through the model once; the rest of each prompt is packed after them, longest first, in passes
//! of a bounded number of tokens.

use common::generate::logprobs;
use common::model::{Batch, Cache, KeyValueCache, Model, Sequence};
use common::{Result, bail};
use rayon::prelude::*;

use crate::parts::PassPlace;

/// A model that gives logits of prompts, with a memory of the tokens that they share.
pub trait Scorer {
    /// What the model remembers of a prefix.
    type Prefix;
    /// Returns the most tokens that a prompt may have.
    fn max_tokens(&self) -> usize;
    /// Returns what bounds the number of tokens, in words for messages.
    fn bound(&self) -> String {
        format!("{} positions", self.max_tokens())
    }
    /// Returns whether prompts of up to this many tokens may share what the model remembers of a prefix.
    fn shares_prefix(&self, _longest: usize) -> bool {
        true
    }
    /// Runs tokens that many prompts begin with, and returns what the model remembers of them.
    fn prefix(&self, tokens: &[u32]) -> Result<Self::Prefix>;
    /// Returns the logits `[N, V]` after the last token of N prompts, each of which continues the prefix if there
    /// is one.
    fn last_logits(&self, prefix: Option<&Self::Prefix>, prompts: &[&[u32]]) -> Result<Vec<f32>>;
}

impl Scorer for Model {
    type Prefix = KeyValueCache;

    fn max_tokens(&self) -> usize {
        self.config().max_positions
    }

    fn bound(&self) -> String {
        self.config().bound()
    }

    fn shares_prefix(&self, longest: usize) -> bool {
        !self.config().is_stretched(longest)
    }

    fn prefix(&self, tokens: &[u32]) -> Result<KeyValueCache> {
        let mut cache = KeyValueCache::new();
        let batch = Batch::prompt(tokens, 0);
        self.logits(&batch, &[], Cache::Extend(&mut cache))?;
        Ok(cache)
    }

    fn last_logits(&self, prefix: Option<&KeyValueCache>, prompts: &[&[u32]]) -> Result<Vec<f32>> {
        let sequences = prompts.iter().map(|tokens| Sequence { tokens, trained: &[] });
        let batch = Batch::pack(sequences, prefix.map_or(0, KeyValueCache::len));
        let cache = prefix.map_or(Cache::None, Cache::Shared);
        self.logits(&batch, &batch.last_rows(), cache)
    }
}

/// How prompts go through the model.
#[derive(Debug, Clone, Copy)]
pub struct Passes {
    /// Most tokens of a pass, unless one prompt alone is longer.
    pub tokens: usize,
    /// Whether the tokens that all prompts begin with go through the model only once.
    pub share_prefix: bool,
}

/// Returns the log-probabilities of `answers` after each of `prompts`, in their order: a log-softmax over
/// the whole vocabulary. Nothing is returned for the prompts of passes that are not `own`. `scored` is called
/// after every pass with the number of prompts in it.
pub fn score<S: Scorer>(
    model: &S,
    prompts: &[Vec<u32>],
    answers: &[u32],
    passes: Passes,
    own: impl Fn(PassPlace) -> bool,
    mut scored: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<f32>>> {
    if let Some(long) = prompts.iter().find(|prompt| prompt.len() > model.max_tokens()) {
        bail!(TooLong, "a prompt of {} tokens exceeds the model's {}", long.len(), model.bound());
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let shared = match passes.share_prefix && model.shares_prefix(longest) {
        true => shared_prefix(prompts),
        false => 0,
    };
    let mut prefix = None;
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(prompts[index].len()));
    let mut scores = vec![Vec::new(); prompts.len()];
    let mut rest = order.as_slice();
    let all = prompts.iter().map(|prompt| prompt.len() - shared).sum();
    let mut before = 0;
    while !rest.is_empty() {
        let (pass, later) = rest.split_at(pass_size(rest, prompts, shared, passes.tokens));
        rest = later;
        let tokens: Vec<&[u32]> = pass.iter().map(|&index| &prompts[index][shared..]).collect();
        let place = PassPlace { before, tokens: tokens.iter().map(|prompt| prompt.len()).sum(), all };
        before += place.tokens;
        if !own(place) {
            continue;
        }
        if shared > 0 && prefix.is_none() {
            prefix = Some(model.prefix(&prompts[0][..shared])?);
        }
        let logits = model.last_logits(prefix.as_ref(), &tokens)?;
        let vocabulary = logits.len() / pass.len();
        let rows = logits.par_chunks_exact(vocabulary).map(|row| logprobs(row, answers));
        for (&index, row) in pass.iter().zip(rows.collect::<Result<Vec<_>>>()?) {
            scores[index] = row;
        }
        scored(pass.len())?;
    }
    Ok(scores)
}

/// Returns the number of tokens that all prompts begin with; at least one token of each prompt is left.
fn shared_prefix(prompts: &[Vec<u32>]) -> usize {
    let Some((first, others)) = prompts.split_first().filter(|(_, others)| !others.is_empty()) else {
        return 0;
    };
    others.iter().fold(first.len() - 1, |shared, prompt| {
        let most = shared.min(prompt.len() - 1);
        first[..most].iter().zip(prompt).take_while(|(a, b)| a == b).count()
    })
}

/// Returns how many of `rest`, prompts in descending length, fit a pass.
fn pass_size(rest: &[usize], prompts: &[Vec<u32>], shared: usize, tokens: usize) -> usize {
    let mut used = 0;
    let fits = rest.iter().take_while(|&&index| {
        used += prompts[index].len() - shared;
        used <= tokens
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Logits that tell the sum of all tokens of a prompt, and a record of the passes.
    #[derive(Default)]
    struct Fake {
        passes: RefCell<Vec<Vec<usize>>>,
    }

    impl Scorer for Fake {
        type Prefix = u32;

        fn max_tokens(&self) -> usize {
            50
        }

        fn prefix(&self, tokens: &[u32]) -> Result<u32> {
            self.passes.borrow_mut().push(vec![tokens.len()]);
            Ok(tokens.iter().sum())
        }

        fn last_logits(&self, prefix: Option<&u32>, prompts: &[&[u32]]) -> Result<Vec<f32>> {
            self.passes.borrow_mut().push(prompts.iter().map(|prompt| prompt.len()).collect());
            let sum = |prompt: &&[u32]| prefix.unwrap_or(&0) + prompt.iter().sum::<u32>();
            Ok(prompts.iter().flat_map(|prompt| [sum(prompt) as f32, 0.0, 1.0, 2.0, 3.0]).collect())
        }
    }

    const PROMPTS: [&[u32]; 4] = [&[7, 7, 1], &[7, 7, 2, 3, 4, 5], &[7, 7, 1, 1, 1, 1, 1, 1], &[7, 7, 9]];

    fn scores(fake: &Fake, tokens: usize, share_prefix: bool) -> Vec<Vec<f32>> {
        let prompts = PROMPTS.map(<[u32]>::to_vec);
        score(fake, &prompts, &[0, 1, 2, 3], Passes { tokens, share_prefix }, |_| true, |_| Ok(())).unwrap()
    }

    #[test]
    fn a_shared_prefix_runs_once_and_changes_nothing() {
        let (shared, alone) = (Fake::default(), Fake::default());
        assert_eq!(scores(&shared, 10, true), scores(&alone, 10, false));
        assert_eq!(*shared.passes.borrow(), [vec![2], vec![6, 4], vec![1, 1]]);
        assert_eq!(*alone.passes.borrow(), [vec![8], vec![6, 3], vec![3]]);
    }

    #[test]
    fn passes_of_other_ranks_do_not_run_and_own_ones_stay_the_same() {
        let fake = Fake::default();
        let prompts = PROMPTS.map(<[u32]>::to_vec);
        let passes = Passes { tokens: 10, share_prefix: true };
        let own = |place: PassPlace| place.before >= 10;
        let found = score(&fake, &prompts, &[0, 1, 2, 3], passes, own, |_| Ok(())).unwrap();
        assert_eq!(*fake.passes.borrow(), [vec![2], vec![1, 1]]);
        let whole = scores(&Fake::default(), 10, true);
        assert_eq!(found, [whole[0].clone(), vec![], vec![], whole[3].clone()]);
        let none = Fake::default();
        score(&none, &prompts, &[0, 1, 2, 3], passes, |_| false, |_| Ok(())).unwrap();
        assert!(none.passes.borrow().is_empty(), "not even the prefix");
    }

    #[test]
    fn logprobs_are_normal_over_the_vocabulary_and_in_the_order_of_the_prompts() {
        let found = scores(&Fake::default(), 1, true);
        for (prompt, found) in PROMPTS.iter().zip(found) {
            let logits = [prompt.iter().sum::<u32>() as f32, 0.0, 1.0, 2.0, 3.0];
            let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
            for (logit, found) in logits.iter().zip(found) {
                assert!((logit - sum.ln() - found).abs() < 1e-5, "{found}");
            }
        }
    }

    #[test]
    fn every_prompt_keeps_a_token_of_its_own() {
        assert_eq!(shared_prefix(&[vec![1, 2], vec![1, 2, 3]]), 1);
        assert_eq!(shared_prefix(&[vec![1, 2], vec![1, 2]]), 1);
        assert_eq!(shared_prefix(&[vec![1, 2, 3]]), 0, "nothing to share with");
        assert_eq!(shared_prefix(&[]), 0);
    }

    #[test]
    fn what_cannot_be_scored_is_said() {
        let fake = Fake::default();
        let passes = Passes { tokens: 1, share_prefix: true };
        let error = score(&fake, &[vec![0; 51]], &[0, 1, 2, 3], passes, |_| true, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("51 tokens exceeds the model's 50 positions"), "{error}");
        let error = score(&fake, &[vec![1]], &[0, 1, 2, 5], passes, |_| true, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("token 5"), "{error}");
    }
}
