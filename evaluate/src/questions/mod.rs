//! Multiple-choice questions: where they are, and how they are put.
//!
//! | file | what it is |
//! |---|---|
//! | [`selection`] | which questions are asked |
//! | [`layout`] | where the questions on a subject are: the layouts of the data sets |
//! | `files` | files in a directory or in an archive |
//! | `archive` | zip and tar archives of such files |
//! | `rows` | questions in CSV and parquet files |
//! | [`prompt`] | questions as the harness of a name prompts with them |

mod archive;
mod files;
pub mod layout;
pub mod prompt;
mod rows;
pub mod selection;

use crate::tasks::Task;

pub use layout::load;
pub use prompt::{Prompt, Style};
pub use selection::Selection;

/// A question with its choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub text: String,
    /// The choices, from A on.
    pub choices: Vec<String>,
    /// The index of the choice that is right.
    pub answer: usize,
}

/// The questions on one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The task that the subject belongs to.
    pub task: Task,
    /// The subject as in the names of its files: `abstract_algebra`.
    pub name: String,
    /// The subject as prompts call it: `abstract algebra`.
    pub title: String,
    /// Questions shown with their answers, in file order.
    pub shots: Vec<Question>,
    /// Questions to be answered, in file order.
    pub questions: Vec<Question>,
}
