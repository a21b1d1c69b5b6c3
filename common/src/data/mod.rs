//! Instruction data: files of examples as LLaMA-Factory's users have them, read as conversations.
//!
//! | file | what it is |
//! |---|---|
//! | [`source`] | which file, in which format: a path, or a name in `dataset_info.json` |
//! | [`rows`] | JSON, JSON lines, CSV and parquet, row by row |
//! | [`json`] | JSON as Python reads it |
//! | [`hub`] | data sets that are downloaded |
//! | `alpaca` | rows with `instruction`, `input`, `output` |
//! | `sharegpt` | rows with a list of messages |
//! | [`passes`] | examples packed into passes through the model |

mod alpaca;
pub mod hub;
pub mod json;
pub mod passes;
pub mod rows;
mod sharegpt;
pub mod source;

use std::borrow::Cow;
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::text::{Conversation, Message, number};
use crate::{Error, Result, error};

pub use rows::RowLimit;
use rows::Wanted;
pub use source::{Columns, Format, Source, Tags};

/// A conversation and where it was written.
#[derive(Debug, Clone)]
pub struct Record {
    /// What was said.
    pub conversation: Conversation,
    /// The row it comes from.
    pub place: Place,
}

/// A row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<PathBuf>,
    /// Where in it: the number of a row or of a line, from 1.
    pub row: usize,
    /// Whether `row` counts lines (JSON lines) or rows (a JSON list).
    pub is_line: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_line { "line" } else { "row" };
        write!(f, "{}, {what} {}", self.file.display(), self.row)
    }
}

/// Rows that cannot be used: how many, and what is wrong with the first.
#[derive(Debug, Default)]
pub struct Malformed {
    count: usize,
    first: Option<String>,
}

impl Malformed {
    /// Counts a row, or under `strict` fails with what is wrong with it.
    pub fn add(&mut self, place: &Place, problem: Error, strict: bool) -> Result<()> {
        let problem = problem.context(place);
        if strict {
            return Err(problem.hint("mend the row, or leave --strict out to skip such rows"));
        }
        self.count += 1;
        self.first.get_or_insert_with(|| problem.to_string());
        Ok(())
    }

    /// Adds those of other data.
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.take().or(other.first);
    }

    /// A warning about the rows that were skipped, if there were any.
    pub fn report(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        let rows = if self.count == 1 { "1 row is".into() } else { format!("{} rows are", self.count) };
        Some(format!("{rows} malformed and skipped; the first: {first}"))
    }

    /// What is wrong with the first of them.
    pub fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }
}

/// Most records that are handed on together.
const BATCH: usize = 1024;
/// Bytes of rows after which records are handed on, however few they are.
const BATCH_BYTES: usize = 4 << 20;

/// Rows after which data without a usable one is given up.
const UNUSABLE: usize = 100_000;

/// What takes records: a batch of them, which is empty where no row was usable for long, and how many
/// bytes of the source are read.
pub type Sink<'a> = &'a mut dyn FnMut(&[Record], u64) -> Result<ControlFlow<()>>;

/// Reads the conversations of `source`, batch by batch, and returns what was none.
///
/// Rows that are no conversation are skipped, counted and the first of them kept; under `strict`
/// the first of them is the error. A source without a usable row is an error either way.
pub fn records(source: &Source, strict: bool, sink: Sink) -> Result<Malformed> {
    let mut malformed = Malformed::default();
    let mut format = source.format;
    let most = source.max_samples.unwrap_or(usize::MAX);
    let (mut usable, mut before) = (0, 0);
    for file in &source.files {
        let mut batch = Vec::new();
        let (mut last, mut rows, mut bytes) = (0, 0, 0);
        let wanted = Wanted { column: &|name| source.columns.is_read(name), limit: source.row_limit };
        rows::read(file, wanted, &mut |row| {
            last = row.position;
            rows += 1;
            bytes += row.bytes;
            let conversation = row.value.and_then(|value| {
                let format = match format {
                    Some(format) => format,
                    None => *format.insert(source.recognise(&value)?),
                };
                conversation(&value, format, source)
            });
            match conversation {
                Ok(conversation) => batch.push(Record { conversation, place: row.place }),
                Err(problem) => malformed.add(&row.place, problem, strict)?,
            }
            if rows == BATCH || bytes > BATCH_BYTES {
                (rows, bytes) = (0, 0);
                usable += batch.len();
                if sink(&batch, before + last)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                batch.clear();
            }
            let is_hopeless = usable + batch.len() == 0 && malformed.count >= UNUSABLE;
            let is_enough = usable + batch.len() >= most;
            Ok(if is_enough || is_hopeless { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        before += last;
        usable += batch.len();
        let is_hopeless = usable == 0 && malformed.count >= UNUSABLE;
        if (!batch.is_empty() && sink(&batch, before)?.is_break()) || usable >= most || is_hopeless {
            break;
        }
    }
    if usable == 0 {
        let problem = match malformed.first() {
            Some(first) if malformed.count >= UNUSABLE => {
                error!(Row, "no usable row among the first {}; {first}", malformed.count)
            }
            Some(first) => error!(Row, "no usable row; {first}"),
            None => error!(Row, "{source}: there are no rows"),
        };
        return Err(problem.hint(
            "a row is {\"instruction\": ..., \"input\": ..., \"output\": ...} or {\"messages\": [{\"role\": ..., \"content\": ...}]}",
        ));
    }
    Ok(malformed)
}

fn conversation(row: &Value, format: Format, source: &Source) -> Result<Conversation> {
    match format {
        Format::Alpaca => alpaca::conversation(row, &source.columns),
        Format::ShareGpt => sharegpt::conversation(row, &source.columns, &source.tags),
    }
}

/// The system message of a row that keeps it in a column of its own.
fn system_message(row: &Value, columns: &Columns) -> Result<Option<Message>> {
    let Some(column) = &columns.system else { return Ok(None) };
    Ok(text(row, column)?.filter(|system| !system.is_empty()).map(|system| Message::new("system", system)))
}

/// The text in `row[column]`; `None` where there is none or it is null.
fn text<'a>(row: &'a Value, column: &str) -> Result<Option<&'a str>> {
    match row.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(error!(Row, "{column}: a text expected, found {}", kind_of(other))),
    }
}

/// A list in a column. Files of plain texts, as CSV, hold it as JSON.
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

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        number if number::text_of(number).is_some() => "a number",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
