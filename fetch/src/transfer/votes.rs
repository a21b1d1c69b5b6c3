//! Which chunks of a file to fetch again when its content is wrong, although every chunk arrived.
//!
//! The server's hash is of the whole file, so a mismatch does not say where the wrong bytes are. Each
//! chunk that arrives casts a vote for its content. After a mismatch everything is fetched a second
//! time; where both agree the chunk is settled, and where they differ it is fetched until one content
//! has more votes than any other. If all are settled and the file is still wrong, some chunk was wrong
//! twice in the same way, and every chunk needs a vote more.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

/// Votes that a chunk needs at most; a server that needs more of them is given up.
const MOST_NEEDED: u32 = 4;
/// Rounds of fetching after which a server is given up that sends something else each time.
const MOST_ROUNDS: u32 = 12;

/// The first half of a chunk's SHA-256.
pub(super) type Fingerprint = [u8; 16];

/// The fingerprint of a chunk's bytes.
pub(super) fn fingerprint(bytes: &[u8]) -> Fingerprint {
    let mut first = [0; 16];
    first.copy_from_slice(&Sha256::digest(bytes)[..16]);
    first
}

/// The votes for each chunk of a file.
#[derive(Debug)]
pub(super) struct Votes {
    chunks: Vec<Ballot>,
    needed: u32,
    rounds: u32,
}

#[derive(Debug, Clone, Default)]
struct Ballot {
    votes: HashMap<Fingerprint, u32>,
    /// The content that arrived last and is in the file.
    current: Fingerprint,
}

/// What is known of a file whose content was wrong.
pub(super) struct Healing {
    /// The votes for the chunks of the file.
    pub(crate) votes: Votes,
    /// Chunks that have been fetched since the votes were last counted.
    pub(crate) arrived: Vec<usize>,
}

/// Why a file cannot be healed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hopeless {
    /// The server sends one content, and it is not the one it promised.
    AlwaysTheSame,
    /// Too many tries did not lead to the right content.
    NeverTheSame,
}

impl Ballot {
    /// Whether the content in the file has `needed` votes and more than any other.
    fn is_settled(&self, needed: u32) -> bool {
        let own = self.votes.get(&self.current).copied().unwrap_or(0);
        let is_ahead = |(content, count): (&Fingerprint, &u32)| content == &self.current || *count < own;
        own >= needed && self.votes.iter().all(is_ahead)
    }
}

impl Votes {
    /// No votes yet, for a file of `chunks` chunks.
    pub(super) fn new(chunks: usize) -> Self {
        Self { chunks: vec![Ballot::default(); chunks], needed: 1, rounds: 0 }
    }

    /// Counts what has arrived of a chunk, and is in the file now.
    pub(super) fn cast(&mut self, chunk: usize, content: Fingerprint) {
        let ballot = &mut self.chunks[chunk];
        ballot.current = content;
        *ballot.votes.entry(content).or_default() += 1;
    }

    /// The chunks to fetch again, after the file as it is has turned out to be wrong.
    pub(super) fn doubtful(&mut self) -> Result<Vec<usize>, Hopeless> {
        self.rounds += 1;
        loop {
            let unsettled: Vec<usize> =
                (0..self.chunks.len()).filter(|&chunk| !self.chunks[chunk].is_settled(self.needed)).collect();
            if !unsettled.is_empty() {
                return if self.rounds <= MOST_ROUNDS { Ok(unsettled) } else { Err(Hopeless::NeverTheSame) };
            }
            if self.needed > 1 && self.chunks.iter().all(|ballot| ballot.votes.len() == 1) {
                return Err(Hopeless::AlwaysTheSame);
            }
            if self.needed == MOST_NEEDED {
                return Err(Hopeless::NeverTheSame);
            }
            self.needed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: Fingerprint = [1; 16];
    const WRONG: Fingerprint = [2; 16];
    const OTHER: Fingerprint = [3; 16];

    fn cast(votes: &mut Votes, contents: &[(usize, Fingerprint)]) {
        for (chunk, content) in contents {
            votes.cast(*chunk, *content);
        }
    }

    #[test]
    fn what_differs_is_fetched_a_third_time() {
        let mut votes = Votes::new(3);
        cast(&mut votes, &[(0, RIGHT), (1, WRONG), (2, RIGHT)]);
        assert_eq!(votes.doubtful(), Ok(vec![0, 1, 2]), "nobody knows where");
        cast(&mut votes, &[(0, RIGHT), (1, RIGHT), (2, WRONG)]);
        assert_eq!(votes.doubtful(), Ok(vec![1, 2]));
        cast(&mut votes, &[(1, RIGHT), (2, OTHER)]);
        assert_eq!(votes.doubtful(), Ok(vec![2]), "three contents");
        cast(&mut votes, &[(2, WRONG)]);
        assert_eq!(votes.doubtful(), Ok(vec![0, 1, 2]), "it was wrong twice in the same way");
        cast(&mut votes, &[(0, RIGHT), (1, RIGHT), (2, RIGHT)]);
        assert_eq!(votes.doubtful(), Ok(vec![2]), "two against two");
    }

    #[test]
    fn a_server_that_cannot_be_right_is_given_up() {
        let mut votes = Votes::new(2);
        cast(&mut votes, &[(0, RIGHT), (1, WRONG)]);
        assert!(votes.doubtful().is_ok());
        cast(&mut votes, &[(0, RIGHT), (1, WRONG)]);
        assert_eq!(votes.doubtful(), Err(Hopeless::AlwaysTheSame));

        let mut votes = Votes::new(1);
        let end = (0_u8..100).find_map(|content| {
            votes.cast(0, [content; 16]);
            votes.doubtful().err()
        });
        assert_eq!(end, Some(Hopeless::NeverTheSame));
    }
}
