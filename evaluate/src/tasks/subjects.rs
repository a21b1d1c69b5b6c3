//! Which subjects a task has, what prompts call them, and which category they belong to.

use super::Category;

/// The subjects of a task, by their categories.
#[derive(Debug)]
pub enum Subjects {
    /// Subjects by the names of their files. Prompts call each as its file is called, with spaces, so that
    /// subjects that are in no list can be asked as well.
    CalledAsNamed(&'static [(Category, &'static [&'static str])]),
    /// Subjects by the names of their files, each with what prompts call it.
    Titled(&'static [(Category, &'static [(&'static str, &'static str)])]),
}

impl Subjects {
    /// Returns the category of a subject; `None` where the subject is in no list.
    pub fn category(&self, subject: &str) -> Option<Category> {
        match self {
            Self::CalledAsNamed(lists) => {
                let in_list = |(_, names): &&(_, &[&str])| names.contains(&subject);
                lists.iter().find(in_list).map(|(category, _)| *category)
            }
            Self::Titled(_) => self.titled(subject).map(|(category, _)| category),
        }
    }

    /// Returns what prompts call a subject; `None` where that is not known.
    pub fn title(&self, subject: &str) -> Option<String> {
        match self {
            Self::CalledAsNamed(_) => Some(subject.replace('_', " ")),
            Self::Titled(_) => self.titled(subject).map(|(_, title)| title.to_owned()),
        }
    }

    /// Returns the number of subjects in the lists.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        match self {
            Self::CalledAsNamed(lists) => lists.iter().map(|(_, names)| names.len()).sum(),
            Self::Titled(lists) => lists.iter().map(|(_, titles)| titles.len()).sum(),
        }
    }

    fn titled(&self, subject: &str) -> Option<(Category, &'static str)> {
        let Self::Titled(lists) = self else { return None };
        lists.iter().find_map(|(category, titles)| {
            let (_, title) = titles.iter().find(|(name, _)| *name == subject)?;
            Some((*category, *title))
        })
    }
}
