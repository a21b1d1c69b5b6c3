//! Draws rows at random, as `num_samples` asks for.

use rand::seq::index;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The stream of the random generator that draws rows.
const STREAM: u64 = 2;

/// Most rows that can be drawn.
pub const MOST: u64 = 100_000_000;

/// A random draw of N rows, as LLaMA-Factory's `num_samples` makes it: every row at most once, and where N
/// is more than there are, all rows once and the others drawn with replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The number of rows to draw.
    pub rows: usize,
    /// The seed that decides which rows are drawn.
    pub seed: u64,
}

impl Draw {
    /// The number of times that each of `count` rows is drawn, of which at most `most` draws are counted.
    pub fn times(&self, count: usize, most: usize) -> Vec<u32> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(STREAM);
        let mut times = vec![0; count];
        let rows = self.rows.min(most);
        let once = index::sample(&mut random, count, self.rows.min(count));
        once.iter().take(rows).for_each(|row| times[row] += 1);
        if count > 0 {
            for _ in count..rows {
                times[random.random_range(0..count)] += 1;
            }
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(rows: usize, seed: u64, count: usize, most: usize) -> Vec<u32> {
        Draw { rows, seed }.times(count, most)
    }

    #[test]
    fn all_rows_come_once_before_any_comes_again() {
        let drawn = times(25, 42, 10, usize::MAX);
        assert_eq!(drawn.iter().sum::<u32>(), 25);
        assert!(drawn.iter().all(|&times| times >= 1) && drawn.iter().any(|&times| times > 2), "{drawn:?}");
        assert_ne!(times(25, 43, 10, usize::MAX), drawn, "the seed decides");
        assert_eq!(times(10, 42, 10, usize::MAX), [1; 10]);
        assert_eq!(times(7, 42, 0, usize::MAX), [0; 0]);
    }

    #[test]
    fn fewer_than_there_are_is_a_random_choice() {
        let chosen = |seed| -> Vec<usize> {
            let drawn = times(3, seed, 100, usize::MAX);
            assert_eq!(drawn.iter().sum::<u32>(), 3);
            (0..100).filter(|&row| drawn[row] == 1).collect()
        };
        assert_ne!(chosen(1), [0, 1, 2]);
        assert_ne!(chosen(1), chosen(2));
        let (all, two) = (times(3, 1, 100, usize::MAX), times(3, 1, 100, 2));
        assert_eq!(two.iter().sum::<u32>(), 2);
        assert!(all.iter().zip(&two).all(|(all, two)| two <= all), "two of the three");
    }
}
