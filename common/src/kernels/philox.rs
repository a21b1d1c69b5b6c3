//! Random numbers that are computed from their place, so that none is stored: Philox4x32-10 (Salmon
//! et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). `dropout/dropout.cu` has the same.

const MULTIPLIERS: [u64; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What the key grows by from round to round.
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// Four numbers for each of `L` counters, given and returned word by word.
#[inline(always)]
fn philox<const L: usize>(mut words: [[u32; L]; 4], mut key: [u32; 2]) -> [[u32; L]; 4] {
    for _ in 0..ROUNDS {
        let [a, b, c, d] = &mut words;
        for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
            let (first, second) = (MULTIPLIERS[0] * u64::from(*a), MULTIPLIERS[1] * u64::from(*c));
            *a = (second >> 32) as u32 ^ *b ^ key[0];
            *b = second as u32;
            *c = (first >> 32) as u32 ^ *d ^ key[1];
            *d = first as u32;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    words
}

/// The random numbers of a matrix whose rows are tokens. A number depends on its place and on nothing
/// else: not on how a step is cut into passes, nor on when it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    /// Seed of the run.
    pub seed: u64,
    /// Index of the optimizer's step.
    pub step: u32,
    /// Matrices with different streams have different numbers.
    pub stream: u32,
    /// Tokens of the step before the matrix's first row.
    pub first_row: u32,
}

impl Draws {
    /// The key: the seed, its low half first.
    pub(super) fn key(&self) -> [u32; 2] {
        [self.seed as u32, (self.seed >> 32) as u32]
    }

    /// Gives `take` each column of a row of `columns` with its number: those of a counter belong to
    /// four neighbouring columns.
    #[inline(always)]
    pub(super) fn row(&self, row: usize, columns: usize, mut take: impl FnMut(usize, u32)) {
        /// Counters computed together, a wide register of them.
        const LANES: usize = 16;
        let row = self.first_row.wrapping_add(row as u32);
        for start in (0..columns).step_by(4 * LANES) {
            let first = (start / 4) as u32;
            let groups = std::array::from_fn(|lane| first.wrapping_add(lane as u32));
            let words = [groups, [row; LANES], [self.stream; LANES], [self.step; LANES]];
            let numbers = philox(words, self.key());
            for column in start..columns.min(start + 4 * LANES) {
                let within = column - start;
                take(column, numbers[within % 4][within / 4]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors that its authors published with Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        for (counter, key, answer) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter.map(|word| [word]), key), answer.map(|word| [word]));
        }
    }

    #[test]
    fn a_number_depends_on_its_place_alone() {
        let draws = Draws { seed: 3 << 40 | 5, step: 7, stream: 9, first_row: 11 };
        let row = |draws: Draws, row: usize, columns: usize| {
            let mut numbers = Vec::new();
            draws.row(row, columns, |column, number| {
                assert_eq!(column, numbers.len());
                numbers.push(number);
            });
            numbers
        };
        let numbers = row(draws, 4, 201);
        assert_eq!(row(draws, 4, 70), numbers[..70], "columns beside it");
        assert_eq!(row(Draws { first_row: 13, ..draws }, 2, 201), numbers, "rows before it");
        let counter = [[200 / 4], [15], [9], [7]];
        assert_eq!(philox(counter, [5, 3 << 8])[0][0], numbers[200]);
        for other in [
            Draws { seed: 5, ..draws },
            Draws { step: 8, ..draws },
            Draws { stream: 8, ..draws },
            Draws { first_row: 12, ..draws },
        ] {
            let same = row(other, 4, 201).iter().zip(&numbers).filter(|(a, b)| a == b).count();
            assert_eq!(same, 0, "{other:?}");
        }
    }
}
