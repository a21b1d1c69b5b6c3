//! How many questions were answered right, and how sure that is.

/// The number of questions and of right answers, and how sure the accuracy is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tally {
    /// Number of questions.
    pub n: usize,
    /// Number of right answers.
    pub correct: usize,
    /// Standard error of the accuracy; 0 where a single question gives none.
    pub error: f64,
}

impl Tally {
    /// Counts one subject; the error is the sample standard deviation over the square root of n.
    pub fn of_subject(n: usize, correct: usize) -> Self {
        let accuracy = correct as f64 / n.max(1) as f64;
        let error = if n > 1 { (accuracy * (1.0 - accuracy) / (n - 1) as f64).sqrt() } else { 0.0 };
        Self { n, correct, error }
    }

    /// Adds several subjects up, weighted by their questions, with the pooled standard error of
    /// lm-evaluation-harness (`pooled_sample_stderr`).
    pub fn of_group(subjects: &[Self]) -> Self {
        let n = subjects.iter().map(|subject| subject.n).sum();
        let correct = subjects.iter().map(|subject| subject.correct).sum();
        let squares: f64 = subjects
            .iter()
            .map(|subject| (subject.n as f64 - 1.0) * subject.error.powi(2) * subject.n as f64)
            .sum();
        let freedom = n as f64 - subjects.len() as f64;
        let error = if freedom > 0.0 { (squares / freedom / n as f64).sqrt() } else { 0.0 };
        Self { n, correct, error }
    }

    /// Returns the share of right answers.
    pub fn accuracy(self) -> f64 {
        self.correct as f64 / self.n.max(1) as f64
    }
}
