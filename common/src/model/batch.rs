//! Sequences packed end to end. No token sees another sequence, and positions restart in each.

use super::Noise;

/// Tokens to pack, and which of them are trained.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// Whether each token is a target, as long as `tokens`; empty where nothing is.
    pub trained: &'a [bool],
}

/// One pass through the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// `[T]`
    pub tokens: Vec<u32>,
    /// `[T]`, from the sequence's start or from the end of the past.
    pub positions: Vec<u32>,
    /// Bounds of the sequences: 0, …, T.
    pub starts: Vec<usize>,
    /// Rows whose next token is a target.
    pub supervised: Vec<u32>,
    /// The target of each supervised row.
    pub targets: Vec<u32>,
    /// What training adds at random; nothing where a model is used.
    pub noise: Option<Noise>,
}

impl Batch {
    /// Packs sequences whose first tokens stand at position `past` (0 without a cache).
    ///
    /// The row of token t predicts token t + 1, so a sequence's first token is never a target.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = Sequence<'a>>, past: usize) -> Self {
        let mut batch = Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            starts: vec![0],
            supervised: Vec::new(),
            targets: Vec::new(),
            noise: None,
        };
        for Sequence { tokens, trained } in sequences {
            let start = batch.tokens.len();
            for (t, (&token, &trained)) in tokens.iter().zip(trained).enumerate().skip(1) {
                if trained {
                    batch.supervised.push((start + t - 1) as u32);
                    batch.targets.push(token);
                }
            }
            batch.tokens.extend_from_slice(tokens);
            batch.positions.extend((past..past + tokens.len()).map(|position| position as u32));
            batch.starts.push(batch.tokens.len());
        }
        batch
    }

    /// Packs sequences without targets, each after as many tokens that came before it as stand beside it.
    pub fn continued<'a>(sequences: impl IntoIterator<Item = (&'a [u32], usize)>) -> Self {
        let mut batch = Self::pack([], 0);
        for (tokens, past) in sequences {
            batch.tokens.extend_from_slice(tokens);
            batch.positions.extend((past..past + tokens.len()).map(|position| position as u32));
            batch.starts.push(batch.tokens.len());
        }
        batch
    }

    /// One sequence without targets, after `past` tokens that came before.
    pub fn prompt(tokens: &[u32], past: usize) -> Self {
        Self::pack([Sequence { tokens, trained: &[] }], past)
    }

    /// Returns the batch with noise on its inputs.
    pub fn with_noise(self, noise: Noise) -> Self {
        Self { noise: Some(noise), ..self }
    }

    /// T
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The last row of every sequence.
    pub fn last_rows(&self) -> Vec<u32> {
        self.starts[1..].iter().map(|&end| end.saturating_sub(1) as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_never_cross_a_boundary() {
        let a = Sequence { tokens: &[10, 11, 12], trained: &[true, false, true] };
        let b = Sequence { tokens: &[20, 21], trained: &[true, true] };
        let batch = Batch::pack([a, b], 0);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
        assert_eq!(batch.starts, [0, 3, 5]);
        assert_eq!(
            (batch.supervised.as_slice(), batch.targets.as_slice()),
            ([1, 3].as_slice(), [12, 21].as_slice())
        );
        assert_eq!(batch.last_rows(), [2, 4]);
    }
}
