//! Instruction data: files of examples as LLaMA-Factory's users have them, read as conversations.
//!
//! | file | what it is |
//! |---|---|
//! | [`source`] | a data set: which files, in which format, by path or by a name in `dataset_info.json` |
//! | `columns` | which columns of a row are read, and which fields of its messages |
//! | [`hub`] | data sets that are downloaded |
//! | `card` | the subsets that the README of a data set names |
//! | [`splits`] | the splits of a data set, and the files of each |
//! | [`slices`] | which rows of which splits are read |
//! | [`draw`] | rows that are drawn at random |
//! | [`rows`] | JSON, JSON lines, CSV and parquet, row by row |
//! | [`reading`] | rows as conversations, batch by batch |
//! | `alpaca` | rows with `instruction`, `input`, `output` |
//! | `sharegpt` | rows with a list of messages |
//! | [`encoder`] | conversations as examples: tokenized, with the supervised tokens marked |
//! | [`passes`] | examples packed into passes through the model |

mod alpaca;
mod card;
mod columns;
pub mod draw;
pub mod encoder;
pub mod hub;
pub mod passes;
pub mod reading;
pub mod rows;
mod sharegpt;
pub mod slices;
pub mod source;
pub mod splits;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::json::kind_of;
use crate::text::{Conversation, Message};
use crate::{Context, Error, Result, bail, error, json};

pub use columns::{Columns, Format, Tags};
pub use encoder::{Encoder, EncodingCounts};
pub use reading::{RecordSink, records};
pub use rows::RowLimit;
pub use source::{DataSource, known_repository};

/// The split that is read where none is named, and that holds files whose names tell no other split.
pub(crate) const TRAIN: &str = "train";

/// A conversation and the row that it comes from.
#[derive(Debug, Clone)]
pub struct Record {
    /// The conversation.
    pub conversation: Conversation,
    /// The row that the conversation comes from.
    pub place: RowPlace,
}

/// The place of a row: its file, and its number in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPlace {
    /// The file that holds the row.
    pub file: Arc<PathBuf>,
    /// The number of the row or of its line, from 1.
    pub row: usize,
    /// Whether `row` counts lines (JSON lines) or rows (a JSON list).
    pub is_line: bool,
}

impl fmt::Display for RowPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_line { "line" } else { "row" };
        write!(f, "{}, {what} {}", self.file.display(), self.row)
    }
}

/// The number of rows that cannot be used, and what is wrong with the first.
#[derive(Debug, Default)]
pub struct Malformed {
    count: usize,
    first: Option<String>,
}

impl Malformed {
    /// Counts a row that cannot be used. Under `strict` it fails with what is wrong with the row.
    pub fn add(&mut self, place: &RowPlace, problem: Error, strict: bool) -> Result<()> {
        let problem = problem.context(place);
        if strict {
            return Err(problem.hint("mend the row, or leave --strict out to skip such rows"));
        }
        self.count += 1;
        self.first.get_or_insert_with(|| problem.to_string());
        Ok(())
    }

    /// Adds the rows that were counted in other data.
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.take().or(other.first);
    }

    /// The warning about the rows that were skipped; `None` where there were none.
    pub fn report(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        let rows = if self.count == 1 { "1 row is".into() } else { format!("{} rows are", self.count) };
        Some(format!("{rows} malformed and skipped; the first: {first}"))
    }

    /// What is wrong with the first row that cannot be used.
    pub fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }
}

/// The system message of a row, where it has a column of its own.
fn system_message(row: &Value, columns: &Columns) -> Result<Option<Message>> {
    let Some(column) = &columns.system else { return Ok(None) };
    Ok(text(row, column)?.filter(|system| !system.is_empty()).map(|system| Message::new("system", system)))
}

/// The text in `row[column]`; `None` where it is missing or null.
fn text<'a>(row: &'a Value, column: &str) -> Result<Option<&'a str>> {
    match row.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(error!(Row, "{column}: a text expected, found {}", kind_of(other))),
    }
}

/// The list in `row[column]`. Files of plain texts, such as CSV, hold it as JSON.
fn list<'a>(row: &'a Value, column: &str) -> Result<Option<Cow<'a, [Value]>>> {
    match row.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => Ok(Some(Cow::Borrowed(list))),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) if text.trim_start().starts_with('[') => {
            match json::parse(text).map_err(|problem| error!(Row, "{column}: {problem}"))? {
                Value::Array(list) => Ok(Some(Cow::Owned(list))),
                other => Err(error!(Row, "{column}: a list expected, found {}", kind_of(&other))),
            }
        }
        Some(other) => Err(error!(Row, "{column}: a list expected, found {}", kind_of(other))),
    }
}

/// The tools of a row, given as a list or as its JSON text, each as `{"type": "function", ...}`.
fn tools(row: &Value, columns: &Columns) -> Result<Vec<Value>> {
    let Some(column) = columns.tools.as_deref() else { return Ok(Vec::new()) };
    let tools = match row.get(column) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(Value::String(text)) => {
            json::parse(text).with_context(|| format!("{column} is not valid JSON"))?
        }
        Some(other) => other.clone(),
    };
    let Value::Array(tools) = tools else {
        bail!(Row, "{column}: a list of tools expected, found {}", kind_of(&tools));
    };
    let wrap = |tool: Value| match tool.get("function") {
        Some(_) => tool,
        None => serde_json::json!({"type": "function", "function": tool}),
    };
    Ok(tools.into_iter().map(wrap).collect())
}

#[cfg(test)]
mod tests;
