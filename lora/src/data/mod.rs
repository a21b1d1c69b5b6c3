//! Instruction data: files of examples as LLaMA-Factory's users have them, read and tokenized.
//!
//! | file | what it is |
//! |---|---|
//! | [`arguments`] | the options that say what is trained on |
//! | [`source`] | which file, in which format: a path, or a name in `dataset_info.json` |
//! | `rows` | JSON and JSON lines as rows with their place in the file |
//! | `alpaca` | rows with `instruction`, `input`, `output` |
//! | `sharegpt` | rows with a list of messages |
//! | [`encode`](mod@encode) | conversations as tokens with the trained ones marked, in parallel |
//! | `show` | an example for people |

mod alpaca;
pub mod arguments;
pub mod encode;
mod rows;
mod sharegpt;
mod show;
pub mod source;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use common::text::{Conversation, Message};
use common::{Error, Result, cli, error};
use serde_json::Value;

pub use arguments::{DataArguments, Prepared};
pub use encode::{Dataset, encode};
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

    /// Warns about the rows that were skipped.
    pub fn report(&self) {
        if let Some(first) = &self.first {
            let rows = if self.count == 1 { "1 row is".into() } else { format!("{} rows are", self.count) };
            cli::warn(format_args!("{rows} malformed and skipped; the first: {first}"));
        }
    }

    fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }
}

/// Reads the conversations of `source`.
///
/// Rows that are no conversation are skipped, counted and the first of them shown; under `strict`
/// the first of them is the error. A file without a usable row is an error either way.
pub fn load(source: &Source, strict: bool) -> Result<Vec<Record>> {
    let mut malformed = Malformed::default();
    let mut records = Vec::new();
    let mut format = source.format;
    for (place, row) in rows::read(&source.path)? {
        if source.max_samples.is_some_and(|most| records.len() >= most) {
            break;
        }
        let conversation = row.and_then(|row| {
            let format = match format {
                Some(format) => format,
                None => *format.insert(source.recognise(&row)?),
            };
            conversation(&row, format, source)
        });
        match conversation {
            Ok(conversation) => records.push(Record { conversation, place }),
            Err(problem) => malformed.add(&place, problem, strict)?,
        }
    }
    if records.is_empty() {
        let problem = match malformed.first() {
            Some(first) => error!("no usable row; {first}"),
            None => error!("{}: there are no rows", source.path.display()),
        };
        return Err(problem.hint(
            "a row is {\"instruction\": ..., \"input\": ..., \"output\": ...} or {\"messages\": [{\"role\": ..., \"content\": ...}]}",
        ));
    }
    malformed.report();
    Ok(records)
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
        Some(other) => Err(error!("{column}: a text expected, found {}", kind_of(other))),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
