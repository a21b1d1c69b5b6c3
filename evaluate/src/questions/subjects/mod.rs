//! Which subjects a task has, what they are called in prompts, and which category they belong to.

mod ceval;
mod cmmlu;
mod mmlu;

use std::fmt;

use super::Task;

/// Subjects as in the names of their files, and as a Chinese prompt calls them.
type Named = &'static [(&'static str, &'static str)];

/// The categories that results are quoted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Science, technology, engineering, mathematics.
    Stem,
    /// Social sciences.
    SocialSciences,
    /// Humanities.
    Humanities,
    /// Business, health, and what is in no list.
    Other,
}

impl Category {
    /// In the order of results.
    pub const ALL: [Self; 4] = [Self::Stem, Self::SocialSciences, Self::Humanities, Self::Other];

    /// The category of a subject of `task`.
    pub fn of(task: Task, subject: &str) -> Self {
        find(task, subject).map_or(Self::Other, |(category, _)| category)
    }

    /// The name of the group in lm-evaluation-harness, after `mmlu_`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Stem => "stem",
            Self::SocialSciences => "social_sciences",
            Self::Humanities => "humanities",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stem => "STEM",
            Self::SocialSciences => "Social Sciences",
            Self::Humanities => "Humanities",
            Self::Other => "Other",
        })
    }
}

/// What prompts of `task` call a subject; MMLU's are called as their files are.
pub fn title(task: Task, subject: &str) -> Option<String> {
    match task {
        Task::Mmlu => Some(subject.replace('_', " ")),
        Task::Cmmlu | Task::CEval => find(task, subject).map(|(_, title)| title.to_owned()),
    }
}

/// The other task that has a subject which `task` does not have.
pub fn foreign(task: Task, subject: &str) -> Option<Task> {
    match find(task, subject) {
        Some(_) => None,
        None => [Task::Mmlu, Task::Cmmlu, Task::CEval].into_iter().find(|&of| find(of, subject).is_some()),
    }
}

/// The category and the title of a subject.
fn find(task: Task, subject: &str) -> Option<(Category, &'static str)> {
    let in_list = |&(category, subjects): &(Category, Named)| {
        let (_, title) = subjects.iter().find(|(name, _)| *name == subject)?;
        Some((category, *title))
    };
    match task {
        Task::Mmlu => mmlu::SUBJECTS.iter().find_map(|&(category, subjects)| {
            subjects.iter().find(|name| **name == subject).map(|name| (category, *name))
        }),
        Task::Cmmlu => cmmlu::SUBJECTS.iter().find_map(in_list),
        Task::CEval => ceval::SUBJECTS.iter().find_map(in_list),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_have_the_category_that_results_are_quoted_by() {
        assert_eq!(Category::of(Task::Mmlu, "machine_learning"), Category::Stem);
        assert_eq!(Category::of(Task::Mmlu, "econometrics"), Category::SocialSciences);
        assert_eq!(Category::of(Task::Mmlu, "prehistory"), Category::Humanities);
        assert_eq!(Category::of(Task::Mmlu, "virology"), Category::Other);
        assert_eq!(Category::of(Task::Mmlu, "tern_island"), Category::Other, "what is in no list");
        assert_eq!(Category::of(Task::Cmmlu, "virology"), Category::Stem, "each task has its own lists");
        assert_eq!(Category::of(Task::CEval, "marxism"), Category::SocialSciences);
    }

    #[test]
    fn every_task_has_as_many_subjects_as_its_paper_says() {
        let count = |lists: &[(Category, Named)]| lists.iter().map(|(_, list)| list.len()).sum::<usize>();
        assert_eq!(mmlu::SUBJECTS.iter().map(|(_, list)| list.len()).sum::<usize>(), 57);
        assert_eq!((count(cmmlu::SUBJECTS), count(ceval::SUBJECTS)), (67, 52));
    }

    #[test]
    fn a_subject_of_another_task_is_recognised() {
        assert_eq!(foreign(Task::Mmlu, "agronomy"), Some(Task::Cmmlu));
        assert_eq!(foreign(Task::Cmmlu, "fire_engineer"), Some(Task::CEval));
        assert_eq!(foreign(Task::Mmlu, "astronomy"), None, "it is in both");
        assert_eq!(foreign(Task::Mmlu, "tern_island"), None, "it is in none");
        assert_eq!(title(Task::Cmmlu, "agronomy").as_deref(), Some("农学"));
        assert_eq!(title(Task::Cmmlu, "tern_island"), None);
    }
}
