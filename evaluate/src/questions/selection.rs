//! Which questions of a data set are asked.

use crate::tasks::{Split, Task};

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
