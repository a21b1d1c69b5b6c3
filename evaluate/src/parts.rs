//! Which passes each rank of a run scores.
//!
//! The passes of all subjects lie in a row, which is cut into a part for each rank, so that the part that takes longest takes
//! as little time as can be. A rank whose part begins within a subject runs the prefix of that subject again. Passes are
//! the same whatever the number of ranks.

use crate::passes::SubjectPasses;

/// The number of earlier tokens whose attention takes a token as long as everything else does. For a model of 7B on an H100,
/// by the operations of both and the rates that kernels reach, it is between 10,000 and 20,000.
const CONTEXT: u64 = 12_000;
/// What a pass takes beside its tokens (to read all weights, to start kernels), in the time of a token.
const PASS: u64 = 256;

/// Estimates of how long the passes of a subject take, in the time of a token that nothing comes before.
#[derive(Debug, Clone)]
pub struct Costs {
    /// What running the prefix takes on every rank that scores some of the passes.
    prefix: u64,
    passes: Vec<u64>,
}

impl Costs {
    /// Estimates what the passes of a subject take.
    pub fn of(passes: &SubjectPasses) -> Self {
        let rests = |pass| passes.rests_of(pass).map(<[u32]>::len);
        Self::new(passes.prefix().len(), (0..passes.len()).map(rests))
    }

    /// Estimates what a prefix of `prefix` tokens takes, and each pass of texts with these lengths after it.
    fn new<Lengths: IntoIterator<Item = usize>>(
        prefix: usize,
        passes: impl IntoIterator<Item = Lengths>,
    ) -> Self {
        let of_prefix = if prefix == 0 { 0 } else { cost(0, [prefix]) };
        Self { prefix: of_prefix, passes: passes.into_iter().map(|lengths| cost(prefix, lengths)).collect() }
    }
}

/// Estimates what a pass of texts with these lengths takes, each after `past` tokens.
fn cost(past: usize, lengths: impl IntoIterator<Item = usize>) -> u64 {
    let text = |length: usize| {
        let (length, past) = (length as u64, past as u64);
        length + length * (past + length / 2) / CONTEXT
    };
    PASS + lengths.into_iter().map(text).sum::<u64>()
}

/// A pass of a subject, by their indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassOfSubject {
    /// The index of the subject among those that are scored.
    pub subject: usize,
    /// The index of the pass among those of the subject.
    pub pass: usize,
}

/// The passes that one rank scores, in order.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// The passes.
    pub passes: Vec<PassOfSubject>,
    /// The estimate of how long they take, with the prefixes before them.
    pub cost: u64,
}

/// Deals the passes of subjects to `ranks` ranks, of which there is at least one.
pub fn deal(subjects: &[Costs], ranks: usize) -> Vec<Part> {
    // Between a bound that is too small for all passes and one that is not.
    let (mut small, mut large) =
        (0, subjects.iter().map(|costs| costs.prefix + costs.passes.iter().sum::<u64>()).sum());
    while large - small > 1 {
        let middle = small + (large - small) / 2;
        match fill(subjects, middle).len() > ranks {
            true => small = middle,
            false => large = middle,
        }
    }
    let mut parts = fill(subjects, large);
    parts.resize_with(ranks, Part::default);
    parts
}

/// Cuts the row of all passes into as few parts as there are of cost `most` at most, unless a pass alone costs more.
fn fill(subjects: &[Costs], most: u64) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (subject, costs) in subjects.iter().enumerate() {
        for (pass, cost) in costs.passes.iter().enumerate() {
            let next = PassOfSubject { subject, pass };
            let more = if pass == 0 { costs.prefix + cost } else { *cost };
            match parts.last_mut() {
                Some(part) if part.cost + more <= most => {
                    part.passes.push(next);
                    part.cost += more;
                }
                _ => parts.push(Part { passes: vec![next], cost: costs.prefix + cost }),
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::pass_sizes;

    /// The subjects of MMLU as the tokenizer of Qwen2.5 sees them with five shots: the number of questions, the tokens of
    /// the prefix, and the mean number of tokens that a prompt has after it.
    const MMLU: [(usize, usize, usize); 57] = [
        (100, 295, 64),
        (135, 274, 61),
        (152, 499, 72),
        (100, 478, 73),
        (265, 324, 59),
        (144, 392, 76),
        (100, 467, 81),
        (100, 712, 108),
        (100, 509, 81),
        (173, 381, 106),
        (102, 413, 84),
        (100, 303, 64),
        (235, 243, 45),
        (114, 512, 99),
        (145, 398, 47),
        (378, 489, 70),
        (126, 477, 104),
        (100, 353, 57),
        (310, 418, 77),
        (203, 416, 82),
        (100, 752, 107),
        (165, 2454, 342),
        (198, 306, 47),
        (193, 379, 69),
        (390, 292, 64),
        (270, 471, 75),
        (238, 315, 68),
        (151, 463, 99),
        (545, 414, 63),
        (216, 690, 123),
        (204, 1920, 298),
        (237, 1091, 338),
        (223, 255, 48),
        (131, 266, 57),
        (121, 532, 90),
        (108, 310, 67),
        (163, 363, 68),
        (112, 585, 77),
        (103, 222, 43),
        (234, 327, 55),
        (100, 269, 54),
        (783, 237, 48),
        (346, 392, 66),
        (895, 587, 62),
        (306, 512, 69),
        (311, 254, 57),
        (324, 444, 65),
        (282, 616, 104),
        (1534, 1392, 253),
        (272, 917, 189),
        (612, 487, 75),
        (110, 333, 56),
        (245, 995, 153),
        (201, 363, 68),
        (100, 349, 60),
        (166, 269, 56),
        (171, 212, 42),
    ];

    /// The costs of a subject in passes of 8,192 tokens, with lengths from half of the mean to one and a half of it.
    fn costs((questions, prefix, mean): (usize, usize, usize)) -> Costs {
        let lengths: Vec<usize> =
            (0..questions).rev().map(|index| (mean / 2 + mean * index / questions).max(1)).collect();
        let mut rest = lengths.as_slice();
        let passes = pass_sizes(&lengths, 8192).into_iter().map(|size| {
            let (pass, later) = rest.split_at(size);
            rest = later;
            pass.to_vec()
        });
        Costs::new(prefix, passes.collect::<Vec<_>>())
    }

    /// Checks that every pass is in one part, in order, and that the costs of parts are those of their passes.
    fn expect_whole(subjects: &[Costs], parts: &[Part]) {
        let all = (0..subjects.len()).flat_map(|subject| {
            (0..subjects[subject].passes.len()).map(move |pass| PassOfSubject { subject, pass })
        });
        let dealt = parts.iter().flat_map(|part| &part.passes).copied();
        assert_eq!(dealt.collect::<Vec<_>>(), all.collect::<Vec<_>>());
        for part in parts {
            let passes: u64 = part.passes.iter().map(|at| subjects[at.subject].passes[at.pass]).sum();
            let mut begun: Vec<usize> = part.passes.iter().map(|at| at.subject).collect();
            begun.dedup();
            assert_eq!(
                part.cost,
                passes + begun.iter().map(|&subject| subjects[subject].prefix).sum::<u64>()
            );
        }
    }

    #[test]
    fn the_parts_of_mmlu_are_even() {
        let subjects = MMLU.map(costs);
        assert_eq!(MMLU.iter().map(|(questions, ..)| questions).sum::<usize>(), 14_042);
        for ranks in [1, 2, 3, 4, 8] {
            let parts = deal(&subjects, ranks);
            assert_eq!(parts.len(), ranks);
            expect_whole(&subjects, &parts);
            let largest = parts.iter().map(|part| part.cost).max().unwrap();
            let mean = parts.iter().map(|part| part.cost).sum::<u64>() as f64 / ranks as f64;
            let above = largest as f64 / mean - 1.0;
            assert!(above < 0.005 * ranks as f64, "{ranks} ranks: {above:.4} above the mean");
        }
    }

    #[test]
    fn a_prefix_counts_wherever_it_is_computed() {
        let subjects =
            [Costs { prefix: 0, passes: vec![100, 50] }, Costs { prefix: 50, passes: vec![100; 4] }];
        let costs = |ranks| deal(&subjects, ranks).iter().map(|part| part.cost).collect::<Vec<_>>();
        assert_eq!(costs(1), [600]);
        assert_eq!(costs(2), [300, 350]);
        assert_eq!(costs(3), [150, 250, 250]);
        // More ranks than passes: some have nothing to do.
        assert_eq!(costs(8), [100, 50, 150, 150, 150, 150, 0, 0]);
        (1..9).for_each(|ranks| expect_whole(&subjects, &deal(&subjects, ranks)));
        assert_eq!(deal(&[], 2).iter().map(|part| part.cost).collect::<Vec<_>>(), [0, 0]);
    }

    #[test]
    fn what_comes_before_a_token_counts() {
        let after = |prefix| Costs::new(prefix, [[100, 100]]);
        assert_eq!((after(0).prefix, after(0).passes), (0, vec![256 + 200]));
        assert_eq!(after(6000).passes, [256 + 200 + 100]);
        assert_eq!(after(6000).prefix, 256 + 6000 + 1500);
    }
}
