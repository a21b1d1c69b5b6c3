//! The sets of multiple-choice questions that are known by name. A task is a file with a [`TaskSpec`] and a
//! line in [`TASKS`]; nothing else knows the task's name.

mod category;
mod ceval;
mod cmmlu;
mod language;
mod mmlu;
mod split;
mod subjects;

use std::fmt;
use std::ops::{Deref, RangeInclusive};

use clap::ValueEnum;
use clap::builder::PossibleValue;

pub use category::Category;
pub use language::Language;
pub use split::Split;
pub use subjects::Subjects;

/// All tasks; the first is asked where none is named.
pub static TASKS: [Task; 3] = [Task(&mmlu::MMLU), Task(&cmmlu::CMMLU), Task(&ceval::CEVAL)];

/// What is known of a set of questions.
#[derive(Debug)]
pub struct TaskSpec {
    /// The name on the command line.
    pub name: &'static str,
    /// The name in results.
    pub title: &'static str,
    /// What `--help` says about the task.
    pub about: &'static str,
    /// The repository on the hub that holds the questions.
    pub repository: &'static str,
    /// The language of the prompts.
    pub language: Language,
    /// The number of choices that a question may have; the letters of the choices begin at A.
    pub choices: RangeInclusive<usize>,
    /// The column that holds the list of choices, where a file has no column for each of them.
    pub choices_column: &'static str,
    /// The column that holds the subject, where a file has questions on several.
    pub subject_column: &'static str,
    /// The questions that results are quoted on.
    pub asked: Split,
    /// The questions that are shown with their answers before the one that is asked.
    pub shown: Split,
    /// What to do about a test set without answers, where its authors keep them to themselves.
    pub withheld_test: Option<&'static str>,
    /// What a prompt of lm-evaluation-harness begins with; `{subject}` stands for the subject.
    pub harness_header: &'static str,
    /// What a prompt of the MMLU authors' script begins with, where the script asks this task.
    pub hendrycks_header: Option<&'static str>,
    /// The name of the whole task in lm-evaluation-harness; the names of subjects follow after a `_`.
    pub harness_name: &'static str,
    /// Whether lm-evaluation-harness reports the categories as groups.
    pub harness_groups: bool,
    /// The subjects, by their categories.
    pub subjects: Subjects,
}

impl TaskSpec {
    /// Returns the most choices that a question has.
    pub fn most_choices(&self) -> usize {
        *self.choices.end()
    }

    /// Returns the accuracy of random answers, in percent.
    pub fn chance(&self) -> f64 {
        100.0 / self.most_choices() as f64
    }

    /// Returns the letters of the choices.
    pub fn letters(&self) -> impl Iterator<Item = char> {
        (0..self.most_choices()).map(letter)
    }
}

/// Returns the titles of all tasks, as in `A, B or C`.
pub fn titles() -> String {
    let mut titles: Vec<&str> = TASKS.iter().map(|task| task.title).collect();
    let last = titles.pop().unwrap_or_default();
    format!("{} or {last}", titles.join(", "))
}

/// Returns the letter of the choice at `index`, from A on.
pub fn letter(index: usize) -> char {
    char::from(b'A' + index as u8)
}

/// One of the known tasks.
#[derive(Debug, Clone, Copy)]
pub struct Task(&'static TaskSpec);

impl Task {
    /// Returns the task called `name` on the command line.
    pub fn named(name: &str) -> Option<Self> {
        TASKS.into_iter().find(|task| task.name == name)
    }

    /// Returns the other task that has a subject which this task does not have.
    pub fn with_subject_of_another(self, subject: &str) -> Option<Self> {
        match self.subjects.category(subject) {
            Some(_) => None,
            None => TASKS.into_iter().find(|task| task.subjects.category(subject).is_some()),
        }
    }
}

impl From<&'static TaskSpec> for Task {
    fn from(spec: &'static TaskSpec) -> Self {
        Self(spec)
    }
}

impl Deref for Task {
    type Target = TaskSpec;

    fn deref(&self) -> &TaskSpec {
        self.0
    }
}

impl PartialEq for Task {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Task {}

impl Default for Task {
    fn default() -> Self {
        TASKS[0]
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title)
    }
}

impl ValueEnum for Task {
    fn value_variants<'a>() -> &'a [Self] {
        &TASKS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name).help(self.0.about))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A task unlike the others: up to ten choices, other columns, and its validation set shown.
    pub(crate) static TEN_CHOICES: TaskSpec = TaskSpec {
        name: "ten",
        title: "Ten",
        about: "14 subjects in English",
        repository: "a/ten",
        language: Language::English,
        choices: 3..=10,
        choices_column: "options",
        subject_column: "category",
        asked: Split::Test,
        shown: Split::Val,
        withheld_test: None,
        harness_header: "About {subject}:\n\n",
        hendrycks_header: None,
        harness_name: "ten",
        harness_groups: false,
        subjects: Subjects::CalledAsNamed(&[(Category::Stem, &["physics"])]),
    };

    #[test]
    fn tasks_are_found_by_name_and_have_names_of_their_own() {
        for task in TASKS {
            assert_eq!(Task::named(task.name), Some(task));
            assert_eq!(TASKS.iter().filter(|other| other.harness_name == task.harness_name).count(), 1);
            assert!(task.harness_header.contains("{subject}"));
            assert_eq!(task.chance(), 25.0);
        }
        assert_eq!(Task::named("ten"), None);
        assert_eq!((TEN_CHOICES.chance(), TEN_CHOICES.letters().last()), (10.0, Some('J')));
    }

    #[test]
    fn subjects_have_the_category_that_results_are_quoted_by() {
        let category = |task: &str, subject: &str| Task::named(task).unwrap().subjects.category(subject);
        assert_eq!(category("mmlu", "machine_learning"), Some(Category::Stem));
        assert_eq!(category("mmlu", "econometrics"), Some(Category::SocialSciences));
        assert_eq!(category("mmlu", "prehistory"), Some(Category::Humanities));
        assert_eq!(category("mmlu", "virology"), Some(Category::Other));
        assert_eq!(category("mmlu", "tern_island"), None, "what is in no list");
        assert_eq!(category("cmmlu", "virology"), Some(Category::Stem), "each task has its own lists");
        assert_eq!(category("ceval", "marxism"), Some(Category::SocialSciences));
    }

    #[test]
    fn every_task_has_as_many_subjects_as_its_paper_says() {
        assert_eq!(TASKS.map(|task| task.subjects.count()), [57, 67, 52]);
    }

    #[test]
    fn a_subject_of_another_task_is_recognised() {
        let [mmlu, cmmlu, ceval] = TASKS;
        assert_eq!(mmlu.with_subject_of_another("agronomy"), Some(cmmlu));
        assert_eq!(cmmlu.with_subject_of_another("fire_engineer"), Some(ceval));
        assert_eq!(mmlu.with_subject_of_another("astronomy"), None, "it is in both");
        assert_eq!(mmlu.with_subject_of_another("tern_island"), None, "it is in none");
        assert_eq!(cmmlu.subjects.title("agronomy").as_deref(), Some("农学"));
        assert_eq!(cmmlu.subjects.title("tern_island"), None);
        assert_eq!(mmlu.subjects.title("tern_island").as_deref(), Some("tern island"));
    }
}
