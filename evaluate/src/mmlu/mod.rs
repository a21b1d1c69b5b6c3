//! Multiple-choice questions in MMLU's layout.
//!
//! | file | what it is |
//! |---|---|
//! | `files` | the Hendrycks tree of CSV files |
//! | `archive` | the zip archive that the tree comes in |
//! | [`subjects`] | which subject belongs to which category |
//! | [`prompt`] | questions as the harness of a name prompts with them |

mod archive;
mod files;
pub mod prompt;
pub mod subjects;

pub use files::{Selection, Split, load};
pub use prompt::{Prompt, Style};
pub use subjects::Category;

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
    /// As in the names of its files: `abstract_algebra`.
    pub name: String,
    /// Questions shown with their answers, in file order.
    pub shots: Vec<Question>,
    /// Questions to be answered, in file order.
    pub questions: Vec<Question>,
}
