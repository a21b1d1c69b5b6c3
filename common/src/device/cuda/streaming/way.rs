//! The order in which passes visit blocks.

/// The way of a pass when it visits a block. What comes next follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Upwards to the last block. The next pass begins with the first block.
    Forward,
    /// Upwards to the last block, from where a backward goes down.
    ForwardOfTape,
    /// Down to the block `last`. The next pass begins with the first block.
    Backward {
        /// The block at which the backward ends.
        last: usize,
    },
}

impl Way {
    /// The blocks that are visited after `block`, of `blocks` blocks: those of the rest of this sweep, then those of the
    /// next one.
    pub(super) fn upcoming(self, block: usize, blocks: usize) -> Box<dyn Iterator<Item = usize>> {
        match self {
            Self::Forward => Box::new((block + 1..blocks).chain(0..blocks)),
            Self::ForwardOfTape => Box::new((block + 1..blocks).chain((0..blocks).rev())),
            Self::Backward { last } => Box::new((last..block).rev().chain(0..blocks)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backward_returns_from_the_last_block_and_a_forward_begins_with_the_first() {
        let next = |way: Way, block| way.upcoming(block, 5).take(3).collect::<Vec<_>>();
        assert_eq!(next(Way::Forward, 1), [2, 3, 4]);
        assert_eq!(next(Way::Forward, 3), [4, 0, 1]);
        assert_eq!(next(Way::ForwardOfTape, 3), [4, 4, 3]);
        assert_eq!(next(Way::ForwardOfTape, 4), [4, 3, 2]);
        assert_eq!(next(Way::Backward { last: 0 }, 4), [3, 2, 1]);
        assert_eq!(next(Way::Backward { last: 2 }, 3), [2, 0, 1]);
        assert_eq!(next(Way::Backward { last: 0 }, 0), [0, 1, 2]);
    }
}
