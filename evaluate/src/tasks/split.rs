//! The parts of a data set.

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
