//! The bound on the length of a row, which bounds the memory that reading a file takes.

use std::fmt;

use crate::data::RowPlace;
use crate::{Error, error};

/// The default bound, in bytes.
const BYTES: usize = 16 << 20;

/// The most bytes of a row, and the option of the running tool that sets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLimit {
    /// The most bytes of the text of a row, uncompressed.
    pub bytes: usize,
    /// The option that sets the bound, where the tool has one.
    pub option: Option<&'static str>,
}

impl Default for RowLimit {
    fn default() -> Self {
        Self { bytes: BYTES, option: None }
    }
}

impl RowLimit {
    /// The error for a row that is longer. `why` is the usual cause of such rows.
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
