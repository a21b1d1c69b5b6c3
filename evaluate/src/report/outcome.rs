//! The outcome of the questions on a subject.

use super::tally::Tally;

/// What was chosen and what was right, for each question of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The subject as in the names of its files.
    pub subject: String,
    /// The index of the choice that the model thinks likeliest, for each question.
    pub predictions: Vec<usize>,
    /// The index of the right choice, for each question.
    pub answers: Vec<usize>,
}

impl Outcome {
    /// Returns for each question whether it was answered right.
    pub fn correct(&self) -> impl Iterator<Item = bool> {
        self.predictions.iter().zip(&self.answers).map(|(prediction, answer)| prediction == answer)
    }

    pub(super) fn tally(&self) -> Tally {
        Tally::of_subject(self.answers.len(), self.correct().filter(|&correct| correct).count())
    }
}
