//! The sets of questions that are known by name.

use std::fmt;

use super::Split;

/// A set of multiple-choice questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Task {
    /// 57 subjects in English (arXiv:2009.03300)
    #[default]
    Mmlu,
    /// 67 subjects in Chinese (arXiv:2306.09212)
    Cmmlu,
    /// 52 subjects in Chinese (arXiv:2305.08322)
    #[value(name = "ceval")]
    CEval,
}

impl Task {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mmlu => "mmlu",
            Self::Cmmlu => "cmmlu",
            Self::CEval => "ceval",
        }
    }

    /// The task called `name` on the command line.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Mmlu, Self::Cmmlu, Self::CEval].into_iter().find(|task| task.name() == name)
    }

    /// The repository on the hub that has the questions.
    pub fn repository(self) -> &'static str {
        match self {
            Self::Mmlu => "cais/mmlu",
            Self::Cmmlu => "haonan-li/cmmlu",
            Self::CEval => "ceval/ceval-exam",
        }
    }

    /// The questions that results are quoted on. C-Eval keeps the answers of its test to itself.
    pub fn split(self) -> Split {
        match self {
            Self::Mmlu | Self::Cmmlu => Split::Test,
            Self::CEval => Split::Val,
        }
    }

    /// What stands before an answer.
    pub fn answer_word(self) -> &'static str {
        match self {
            Self::Mmlu => "Answer:",
            Self::Cmmlu | Self::CEval => "答案：",
        }
    }

    /// The name of all of it in lm-evaluation-harness; subjects follow behind a `_`.
    pub fn harness_name(self) -> &'static str {
        match self {
            Self::Mmlu => "mmlu",
            Self::Cmmlu => "cmmlu",
            Self::CEval => "ceval-valid",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mmlu => "MMLU",
            Self::Cmmlu => "CMMLU",
            Self::CEval => "C-Eval",
        })
    }
}
