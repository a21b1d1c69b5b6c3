//! Which subject belongs to which category.

use std::fmt;

/// The categories that MMLU results are quoted by.
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

    /// The category of a subject.
    pub fn of(subject: &str) -> Self {
        let lists =
            [(STEM, Self::Stem), (SOCIAL_SCIENCES, Self::SocialSciences), (HUMANITIES, Self::Humanities)];
        let found = lists.into_iter().find(|(list, _)| list.contains(&subject));
        found.map_or(Self::Other, |(_, category)| category)
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

const STEM: &[&str] = &[
    "abstract_algebra",
    "astronomy",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "electrical_engineering",
    "elementary_mathematics",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_mathematics",
    "high_school_physics",
    "high_school_statistics",
    "machine_learning",
];

const SOCIAL_SCIENCES: &[&str] = &[
    "econometrics",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_microeconomics",
    "high_school_psychology",
    "human_sexuality",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
];

const HUMANITIES: &[&str] = &[
    "formal_logic",
    "high_school_european_history",
    "high_school_us_history",
    "high_school_world_history",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "moral_disputes",
    "moral_scenarios",
    "philosophy",
    "prehistory",
    "professional_law",
    "world_religions",
];

#[cfg(test)]
mod tests {
    use super::Category;

    #[test]
    fn subjects_have_the_category_that_results_are_quoted_by() {
        assert_eq!(Category::of("machine_learning"), Category::Stem);
        assert_eq!(Category::of("econometrics"), Category::SocialSciences);
        assert_eq!(Category::of("prehistory"), Category::Humanities);
        assert_eq!(Category::of("virology"), Category::Other);
        assert_eq!(Category::of("tern_island"), Category::Other, "what is in no list");
    }
}
