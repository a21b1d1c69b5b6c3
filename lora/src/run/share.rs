//! The part of a step that falls to one rank.

use common::text::Example;
use common::world::World;
use common::world::deal::{deal, deal_neighbours};

/// The examples of a step that one rank runs, and the sizes of the whole step.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// The examples of this rank, in the order of the step.
    pub examples: Vec<Example>,
    /// The tokens of the step before those of this rank, where these are neighbours.
    pub first_token: u32,
    /// The number of tokens of the whole step, prompts included.
    pub tokens: usize,
    /// The number of supervised tokens of the whole step.
    pub supervised: usize,
}

impl Share {
    /// The part of the step of `examples` that falls to this rank, so that all have about as many tokens.
    ///
    /// Random values of a token follow from its place in the step. Where they are drawn (`has_noise`), each rank
    /// gets neighbours, whose places follow from the first.
    pub fn of(examples: Vec<Example>, world: &World, has_noise: bool) -> Self {
        let lengths: Vec<usize> = examples.iter().map(|example| example.tokens.len()).collect();
        let supervised = examples.iter().map(Example::supervised).sum();
        let dealt = match has_noise {
            true => deal_neighbours(&lengths, world.size()),
            false => deal(&lengths, world.size()),
        };
        let own = dealt.get(world.rank()).map_or(&[][..], Vec::as_slice);
        let before =
            own.first().filter(|_| has_noise).map_or(0, |&first| lengths[..first].iter().sum::<usize>());
        let examples = examples.into_iter().enumerate();
        let examples = examples.filter(|(index, _)| own.binary_search(index).is_ok());
        Self {
            examples: examples.map(|(_, example)| example).collect(),
            first_token: before as u32,
            tokens: lengths.iter().sum(),
            supervised,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_has_the_whole_step() {
        let example = |len: usize| Example { tokens: vec![1; len], trained: vec![true; len] };
        let examples: Vec<Example> = [3, 4, 9].map(example).to_vec();
        let supervised = examples.iter().map(Example::supervised).sum();
        for has_noise in [false, true] {
            let share = Share::of(examples.clone(), &World::alone(), has_noise);
            assert_eq!(share, Share { examples: examples.clone(), first_token: 0, tokens: 16, supervised });
        }
    }
}
