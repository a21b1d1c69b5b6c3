//! Rows in JSON: a list of objects, or objects one after another, each on a line of its own (JSON
//! lines) or printed over several.

use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Context, Error, Result, error};
use serde_json::Value;

use super::input::{Input, Position, not_utf8};
use super::nesting::Nesting;
use super::{Row, RowLimit, RowSink};
use crate::data::RowPlace;
use crate::json::{self, kind_of};

/// The explanation of a row that exceeds the limit with white space only.
const ENDLESS: &str = "; there is only white space";

/// Reads the elements of a list.
pub(super) fn list(path: &Path, input: Input, limit: RowLimit, sink: RowSink) -> Result<()> {
    let mut list = List { rows: Rows::new(path, &input, limit, false), text: input.text };
    list.skip_white()?;
    list.text.consume(1);
    let mut end = list.skip_white()?;
    if end == Some(b']') {
        list.text.consume(1);
    }
    while end != Some(b']') {
        end = list.element()?;
        let row = &list.rows;
        let value = row.value().map_err(|problem| {
            problem.context(format_args!(
                "{} is not valid JSON: row {}, line {}",
                row.path(),
                row.place.row,
                row.line
            ))
        });
        if list.rows.deliver(Ok(value?), sink)?.is_break() {
            return Ok(());
        }
        match end {
            Some(b',' | b']') => {}
            Some(_) => return Err(list.invalid("a comma or the end of the list expected, found a brace")),
            None => return Err(list.invalid("the list is not closed")),
        }
    }
    match list.skip_white()? {
        None => Ok(()),
        Some(_) => Err(list.invalid("something follows the list")),
    }
}

/// A list whose elements are being read.
struct List {
    rows: Rows,
    text: Box<dyn BufRead>,
}

impl List {
    /// Skips white space, and returns the byte after it.
    fn skip_white(&mut self) -> Result<Option<u8>> {
        let mut passed = 0;
        loop {
            let bytes = self.text.fill_buf().with_context(|| self.rows.path())?;
            let white = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let next = bytes.get(white).copied();
            self.rows.line += line_ends(&bytes[..white]);
            passed += white;
            let is_end = next.is_some() || bytes.is_empty();
            self.text.consume(white);
            if is_end {
                return Ok(next);
            }
            if passed > self.rows.limit.bytes {
                return Err(self.rows.too_long(ENDLESS));
            }
        }
    }

    /// Reads an element into the row, and consumes and returns the byte that ends it.
    fn element(&mut self) -> Result<Option<u8>> {
        self.skip_white()?;
        self.rows.place.row += 1;
        let mut nesting = Nesting::default();
        loop {
            let bytes = self.text.fill_buf().with_context(|| self.rows.path())?;
            let length = nesting.advance(bytes, |byte| matches!(byte, b',' | b']' | b'}'));
            let end = bytes.get(length).copied();
            self.rows.line += line_ends(&bytes[..length]);
            self.rows.push(&bytes[..length])?;
            let is_end = end.is_some() || bytes.is_empty();
            self.text.consume(length + usize::from(end.is_some()));
            if is_end {
                return Ok(end);
            }
        }
    }

    fn invalid(&self, problem: impl std::fmt::Display) -> Error {
        error!(Malformed, "{} is not valid JSON: line {}: {problem}", self.rows.path(), self.rows.line)
    }
}

/// Reads objects one after another.
///
/// A row ends with the line that closes it, and at the latest before a line that begins with a brace, so
/// that a truncated line does not spoil the next one.
pub(super) fn lines(path: &Path, input: Input, limit: RowLimit, sink: RowSink) -> Result<()> {
    let mut rows = Rows::new(path, &input, limit, true);
    let mut text = input.text;
    let (mut nesting, mut white) = (Nesting::default(), 0);
    loop {
        let begin = rows.text.len();
        if begin == 0 {
            rows.place.row = rows.line;
            nesting = Nesting::default();
        }
        let next = rows.read_line(&mut *text)?;
        nesting.advance(&rows.text[begin..], |_| false);
        let is_empty = rows.text.iter().all(u8::is_ascii_whitespace);
        if is_empty {
            white += rows.text.len();
            rows.text.clear();
            if white > limit.bytes {
                return Err(rows.too_long(ENDLESS));
            }
        } else if !nesting.is_inside() || next.is_none_or(|next| next == b'{') {
            white = 0;
            if rows.deliver(rows.value(), sink)?.is_break() {
                return Ok(());
            }
        }
        if next.is_none() {
            return Ok(());
        }
    }
}

/// The row that is being read, and its place.
struct Rows {
    limit: RowLimit,
    position: Position,
    /// The place where the row begins.
    place: RowPlace,
    /// The position in the file.
    line: usize,
    /// The text of the row so far.
    text: Vec<u8>,
}

impl Rows {
    fn new(path: &Path, input: &Input, limit: RowLimit, is_line: bool) -> Self {
        let place = RowPlace { file: Arc::new(PathBuf::from(path)), row: 0, is_line };
        Self { limit, position: input.position.clone(), place, line: 1, text: Vec::new() }
    }

    fn path(&self) -> String {
        self.place.file.display().to_string()
    }

    /// Adds a line to the row, and returns the first byte of the next line; `None` at the end of the file.
    fn read_line(&mut self, text: &mut dyn BufRead) -> Result<Option<u8>> {
        loop {
            let bytes = text.fill_buf().with_context(|| self.path())?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let end = memchr::memchr(b'\n', bytes);
            let length = end.map_or(bytes.len(), |end| end + 1);
            self.push(&bytes[..length])?;
            text.consume(length);
            if end.is_some() {
                self.line += 1;
                return Ok(text.fill_buf().with_context(|| self.path())?.first().copied());
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.text.len() + bytes.len() > self.limit.bytes {
            return Err(self.too_long(""));
        }
        self.text.extend_from_slice(bytes);
        Ok(())
    }

    fn too_long(&self, why: &str) -> Error {
        self.limit.exceeded(&self.place, why)
    }

    fn value(&self) -> Result<Value> {
        let text = std::str::from_utf8(&self.text).map_err(|_| not_utf8(&self.place.file, &self.text))?;
        json::parse(text).context("not valid JSON")
    }

    /// Passes the row to the sink, and begins an empty one.
    fn deliver(&mut self, value: Result<Value>, sink: RowSink) -> Result<ControlFlow<()>> {
        let value = value.and_then(|value| match value.is_object() {
            true => Ok(value),
            false => Err(error!(Row, "an object expected, found {}", kind_of(&value))),
        });
        let (bytes, position) = (self.text.len(), self.position.get());
        self.text.clear();
        sink(Row { place: self.place.clone(), value, bytes, position })
    }
}

fn line_ends(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).count()
}
