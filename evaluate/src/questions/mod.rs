//! Multiple-choice questions: MMLU, CMMLU, C-Eval.
//!
//! | file | what it is |
//! |---|---|
//! | [`task`] | the sets of questions that are known by name |
//! | [`subjects`] | which subject belongs to which category, and its name in prompts |
//! | `layout` | where the questions on a subject are: the layouts of the data sets |
//! | `files` | files in a directory or in an archive |
//! | `archive` | zip and tar archives of such files |
//! | `rows` | questions in CSV and parquet files |
//! | [`prompt`] | questions as the harness of a name prompts with them |

mod archive;
mod files;
mod layout;
pub mod prompt;
mod rows;
pub mod subjects;
pub mod task;

pub use layout::{Selection, Split, load};
pub use prompt::{Prompt, Style};
pub use subjects::Category;
pub use task::Task;

/// The letters of the choices.
pub const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// A question with its four choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub text: String,
    /// The choices, A to D.
    pub choices: [String; 4],
    /// Which choice is right, 0 to 3.
    pub answer: usize,
}

/// The questions on one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The set it belongs to.
    pub task: Task,
    /// As in the names of its files: `abstract_algebra`.
    pub name: String,
    /// As prompts call it: `abstract algebra`.
    pub title: String,
    /// Questions shown with their answers, in file order.
    pub shots: Vec<Question>,
    /// Questions to be answered, in file order.
    pub questions: Vec<Question>,
}
