//! What came of an evaluation: per subject, per category and over all.
//!
//! | file | what it is |
//! |---|---|
//! | [`outcome`] | what was chosen and what was right, for each question of a subject |
//! | [`tally`] | the number of right answers, and how sure that is |
//! | `json` | the report as JSON, written and read |
//! | `table` | the report as a table |
//! | `chart` | the report as a chart |
//! | [`place`] | where the report is written, and whether it is there already |

mod chart;
mod json;
pub mod outcome;
pub mod place;
mod table;
pub mod tally;

use crate::scored::Scored;
use crate::tasks::{Category, Task};

pub use outcome::Outcome;
pub use place::ReportPlace;
pub use tally::Tally;

/// Most bytes of a report; one of MMLU has 100 KB.
pub const MOST_BYTES: u64 = 64 << 20;

/// A finished evaluation.
#[derive(Debug, PartialEq)]
pub struct Report {
    task: Task,
    subjects: Vec<Outcome>,
    tallies: Vec<Tally>,
}

impl Report {
    /// Makes the report of scored subjects, in their order.
    pub fn new(task: Task, subjects: &[Scored]) -> Self {
        Self::of(task, subjects.iter().map(Scored::outcome).collect())
    }

    fn of(task: Task, subjects: Vec<Outcome>) -> Self {
        let tallies = subjects.iter().map(Outcome::tally).collect();
        Self { task, subjects, tallies }
    }

    /// Returns the outcome of each subject.
    pub fn subjects(&self) -> &[Outcome] {
        &self.subjects
    }

    /// Adds all questions up.
    pub fn average(&self) -> Tally {
        Tally::of_group(&self.tallies)
    }

    /// Returns the category of a subject of this report's task.
    fn category(&self, subject: &str) -> Category {
        self.task.subjects.category(subject).unwrap_or(Category::Other)
    }

    fn of_category(&self, category: Category) -> Vec<(&Outcome, Tally)> {
        let pairs = self.subjects.iter().zip(self.tallies.iter().copied());
        pairs.filter(|(subject, _)| self.category(&subject.subject) == category).collect()
    }

    /// Adds the questions of a category up, if there are any.
    pub fn category_tally(&self, category: Category) -> Option<Tally> {
        let tallies: Vec<Tally> = self.of_category(category).into_iter().map(|(_, tally)| tally).collect();
        (!tallies.is_empty()).then(|| Tally::of_group(&tallies))
    }

    /// Returns the mean of the subjects' accuracies.
    pub fn macro_average(&self) -> f64 {
        self.tallies.iter().map(|tally| tally.accuracy()).sum::<f64>() / self.tallies.len().max(1) as f64
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::scored::tests::scored;
    use crate::tasks::TASKS;

    /// A report of three subjects of MMLU.
    pub(crate) fn report() -> Report {
        let subjects = [
            scored("astronomy", "ABCD", "ABCA"),
            scored("tern_island", "AA", "AB"),
            scored("virology", "DDDDDD", "AAAAAD"),
        ];
        Report::new(TASKS[0], &subjects)
    }
}
