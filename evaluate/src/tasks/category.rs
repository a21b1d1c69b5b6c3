//! The categories that results are quoted by.

use std::fmt;

/// A category of subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Science, technology, engineering, mathematics.
    Stem,
    /// Social sciences.
    SocialSciences,
    /// Humanities.
    Humanities,
    /// Business, health, and subjects that are in no list.
    Other,
}

impl Category {
    /// All categories, in the order of results.
    pub const ALL: [Self; 4] = [Self::Stem, Self::SocialSciences, Self::Humanities, Self::Other];

    /// Returns the name of the group in lm-evaluation-harness, without the task before it.
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
