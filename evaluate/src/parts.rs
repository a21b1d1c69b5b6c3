//! Which passes of which subjects each rank of a run scores.
//!
//! The subjects lie one after the other, each as long as its texts, and every rank that scores the model has an equal part
//! of the whole.
//! Of a subject that lies in several parts, a rank scores the passes whose middle lies in its own. So a rank
//! tokenizes hardly more than it scores, and passes are the same whatever the number of ranks.

use std::ops::{Range, RangeInclusive};

use crate::questions::{Question, Subject};

/// The parts of the ranks.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The place where each subject begins, and where the last one ends.
    bounds: Vec<f64>,
    /// The ranks that score the model.
    ranks: Range<usize>,
}

/// The place of a pass in its subject, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassPlace {
    /// The tokens of the passes before it.
    pub before: usize,
    /// The tokens of the pass.
    pub tokens: usize,
    /// The tokens of all passes.
    pub all: usize,
}

impl Parts {
    /// Deals `subjects` to these ranks, of which there is at least one.
    pub fn new<'a>(subjects: impl Iterator<Item = &'a Subject>, ranks: Range<usize>) -> Self {
        let mut bounds = vec![0.0];
        let mut end = 0;
        for subject in subjects {
            end += length(subject);
            bounds.push(end as f64);
        }
        Self { bounds, ranks }
    }

    /// The ranks that score passes of the subject at `index`, or may.
    pub fn ranks_of(&self, index: usize) -> RangeInclusive<usize> {
        let [begin, end] = self.bounds_of(index);
        self.rank_at(begin)..=self.rank_at(end)
    }

    /// The rank that scores a pass of the subject at `index`.
    pub fn rank_of(&self, index: usize, pass: PassPlace) -> usize {
        let [begin, end] = self.bounds_of(index);
        let share = (pass.before as f64 + 0.5 * pass.tokens as f64) / pass.all.max(1) as f64;
        self.rank_at(begin + share * (end - begin))
    }

    fn bounds_of(&self, index: usize) -> [f64; 2] {
        [index, index + 1].map(|bound| self.bounds.get(bound).copied().unwrap_or(0.0))
    }

    fn rank_at(&self, place: f64) -> usize {
        let all = self.bounds.last().copied().unwrap_or(0.0).max(1.0);
        (self.ranks.start + (place / all * self.ranks.len() as f64) as usize).min(self.ranks.end - 1)
    }
}

/// The bytes of the texts that go through a model for a subject.
fn length(subject: &Subject) -> usize {
    let of =
        |question: &Question| question.text.len() + question.choices.iter().map(String::len).sum::<usize>();
    subject.shots.iter().chain(&subject.questions).map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::TASKS;

    fn subject(questions: usize, bytes: usize) -> Subject {
        let question = || Question { text: "x".repeat(bytes), choices: Vec::new(), answer: 0 };
        let questions = (0..questions).map(|_| question()).collect();
        Subject { task: TASKS[0], name: "s".into(), title: "s".into(), shots: Vec::new(), questions }
    }

    #[test]
    fn every_pass_has_one_rank_among_those_of_its_subject_and_the_parts_are_even() {
        let subjects: Vec<Subject> =
            [(10, 40), (300, 60), (3, 5), (80, 100), (1, 900)].map(|(n, bytes)| subject(n, bytes)).into();
        for ranks in [1, 2, 3, 4, 8] {
            let parts = Parts::new(subjects.iter(), 0..ranks);
            let mut loads = vec![0; ranks];
            for (index, subject) in subjects.iter().enumerate() {
                let (all, mut before) = (length(subject), 0);
                while before < all {
                    let tokens = 200.min(all - before);
                    let rank = parts.rank_of(index, PassPlace { before, tokens, all });
                    assert!(parts.ranks_of(index).contains(&rank));
                    loads[rank] += tokens;
                    before += tokens;
                }
            }
            let all: usize = subjects.iter().map(length).sum();
            assert_eq!(loads.iter().sum::<usize>(), all);
            assert!(loads.iter().all(|load| load.abs_diff(all / ranks) <= 400), "{loads:?} of {all}");
        }
    }

    #[test]
    fn one_rank_has_all_and_nothing_is_no_division() {
        let parts = Parts::new([subject(0, 0)].iter(), 0..3);
        assert_eq!(parts.rank_of(0, PassPlace { before: 0, tokens: 0, all: 0 }), 0);
        assert_eq!(Parts::new([subject(4, 9)].iter(), 0..1).ranks_of(0), 0..=0);
        let subjects = [subject(4, 9), subject(2, 7)];
        let of_one = Parts::new(subjects.iter(), 2..3);
        assert_eq!((of_one.ranks_of(0), of_one.ranks_of(1)), (2..=2, 2..=2));
        assert_eq!(of_one.rank_of(1, PassPlace { before: 3, tokens: 9, all: 12 }), 2);
    }
}
