//! Which questions of a data set are asked.

use crate::tasks::Task;

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Split {
    /// The questions that results are quoted on
    Test,
    /// The questions set apart for trying things out
    Val,
    /// The questions that are shown with their answers
    #[value(skip)]
    Dev,
}

impl Split {
    /// Returns the name of the part in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Val => "val",
            Self::Dev => "dev",
        }
    }

    /// Returns the part that data sets call `name`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "test" => Some(Self::Test),
            "val" | "validation" => Some(Self::Val),
            "dev" => Some(Self::Dev),
            _ => None,
        }
    }
}

/// The questions of a data set that are asked, and how many are shown before each.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The data set.
    pub task: Task,
    /// The part of the data set that is asked.
    pub split: Split,
    /// Number of questions that are shown with their answers first.
    pub shots: usize,
    /// Only these subjects are asked; all where the list is empty.
    pub subjects: Vec<String>,
    /// Only this many questions of each subject are asked.
    pub limit: Option<usize>,
}
