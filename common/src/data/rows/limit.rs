//! How long a row may be, so that memory stays flat whatever a file holds.

use std::fmt;

use crate::data::RowPlace;
use crate::{Error, error};

/// Most bytes of a row where nothing else is said.
const BYTES: usize = 16 << 20;

/// Most bytes of a row, and the option that says so in the running tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLimit {
    /// Bytes of its text as the file has it, unpacked.
    pub bytes: usize,
    /// The option, if the tool has one.
    pub option: Option<&'static str>,
}

impl Default for RowLimit {
    fn default() -> Self {
        Self { bytes: BYTES, option: None }
    }
}

impl RowLimit {
    /// The error about a row that is longer. `why` is what such rows often come from.
    pub fn exceeded(&self, place: &RowPlace, why: &str) -> Error {
        let error = error!("{place}: more than {self}, which is the most that a row may have{why}");
        match self.option {
            Some(option) => error.hint(format_args!(
                "remove or split the row, or read longer rows with {option} {}MiB",
                (self.bytes >> 20).max(1) * 4
            )),
            None => error.hint("remove or split the row"),
        }
    }
}

impl fmt::Display for RowLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes.is_multiple_of(1 << 20) {
            true => write!(f, "{} MiB", self.bytes >> 20),
            false => write!(f, "{} bytes", self.bytes),
        }
    }
}
