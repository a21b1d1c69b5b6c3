//! How the prompts of a subject go through a model, pass by pass.
//!
//! The prompts of a subject share their header and shots. The tokens that all of them begin with go through the model once;
//! the rest of each prompt is packed after them, longest first, in passes of a bounded number of tokens.

use std::cmp::Reverse;

/// How prompts go through the model.
#[derive(Debug, Clone, Copy)]
pub struct PassOptions {
    /// Most tokens of a pass, unless one prompt alone is longer.
    pub tokens: usize,
    /// Whether the tokens that all prompts begin with go through the model only once.
    pub share_prefix: bool,
}

/// The prompts of a subject, and the passes that they go through a model in.
#[derive(Debug)]
pub struct SubjectPasses {
    prompts: Vec<Vec<u32>>,
    /// Tokens that all prompts begin with and that go through the model once.
    shared: usize,
    /// The indices of the prompts of each pass.
    passes: Vec<Vec<usize>>,
}

impl SubjectPasses {
    /// Cuts the prompts of a subject into passes.
    pub fn new(prompts: Vec<Vec<u32>>, options: PassOptions) -> Self {
        let shared = if options.share_prefix { shared_prefix(&prompts) } else { 0 };
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&index| Reverse(prompts[index].len()));
        let lengths: Vec<usize> = order.iter().map(|&index| prompts[index].len() - shared).collect();
        let mut rest = order.as_slice();
        let passes = pass_sizes(&lengths, options.tokens).into_iter().map(|size| {
            let (pass, later) = rest.split_at(size);
            rest = later;
            pass.to_vec()
        });
        let passes = passes.collect();
        Self { prompts, shared, passes }
    }

    /// Returns the number of passes.
    pub fn len(&self) -> usize {
        self.passes.len()
    }

    /// Returns whether there is no prompt.
    pub fn is_empty(&self) -> bool {
        self.passes.is_empty()
    }

    /// Returns the tokens that go through the model once, before all passes.
    pub fn prefix(&self) -> &[u32] {
        self.prompts.first().map_or(&[], |prompt| &prompt[..self.shared])
    }

    /// Returns the indices of the prompts of a pass.
    pub fn prompts_of(&self, pass: usize) -> &[usize] {
        &self.passes[pass]
    }

    /// Returns what each prompt of a pass has after the prefix, which is one token at least.
    pub fn rests_of(&self, pass: usize) -> impl Iterator<Item = &[u32]> {
        self.passes[pass].iter().map(|&prompt| &self.prompts[prompt][self.shared..])
    }
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

/// Returns the number of prompts of each pass, of prompts with these lengths, one after the other.
pub(crate) fn pass_sizes(lengths: &[usize], tokens: usize) -> Vec<usize> {
    let (mut sizes, mut used) = (Vec::new(), 0);
    for length in lengths {
        match sizes.last_mut() {
            Some(size) if used + length <= tokens => *size += 1,
            _ => {
                sizes.push(1);
                used = 0;
            }
        }
        used += length;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_have_the_longest_prompts_first_and_a_bounded_number_of_tokens() {
        let prompts: Vec<Vec<u32>> = [3, 6, 8, 3].map(|len| (0..len).collect()).into();
        let passes = |tokens, share_prefix| {
            let passes = SubjectPasses::new(prompts.clone(), PassOptions { tokens, share_prefix });
            let rests = |pass| passes.rests_of(pass).map(<[u32]>::len).collect::<Vec<_>>();
            assert!((0..passes.len()).all(|pass| passes.prompts_of(pass).len() == rests(pass).len()));
            (passes.prefix().len(), (0..passes.len()).map(rests).collect::<Vec<_>>())
        };
        assert_eq!(passes(10, true), (2, vec![vec![6, 4], vec![1, 1]]));
        assert_eq!(passes(10, false), (0, vec![vec![8], vec![6, 3], vec![3]]));
        assert_eq!(
            passes(1, true),
            (2, vec![vec![6], vec![4], vec![1], vec![1]]),
            "longer prompts are alone"
        );
        let none = SubjectPasses::new(Vec::new(), PassOptions { tokens: 10, share_prefix: true });
        assert!(none.is_empty() && none.prefix().is_empty());
    }

    #[test]
    fn every_prompt_keeps_a_token_of_its_own() {
        assert_eq!(shared_prefix(&[vec![1, 2], vec![1, 2, 3]]), 1);
        assert_eq!(shared_prefix(&[vec![1, 2], vec![1, 2]]), 1);
        assert_eq!(shared_prefix(&[vec![1, 2, 3]]), 0, "nothing to share with");
        assert_eq!(shared_prefix(&[]), 0);
    }
}
