//! A JSON list of objects, or one object a line.

use std::cell::Cell;
use std::fmt;
use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::{Context, Result, error};
use serde::Deserializer;
use serde::de::{SeqAccess, Visitor};
use serde_json::Value;

use super::{Counting, Row, Sink};
use crate::data::{Place, kind_of};

pub fn list(path: &Path, bytes: impl BufRead, sink: Sink) -> Result<()> {
    let read = Cell::new(0);
    let bytes = Counting { inner: bytes, read: &read };
    let mut ended = None;
    let file = Arc::new(path.to_path_buf());
    let mut json = serde_json::Deserializer::from_reader(std::io::BufReader::new(bytes));
    let parsed = json.deserialize_seq(Rows { sink, file, read: &read, ended: &mut ended });
    match (ended, parsed.and_then(|()| json.end())) {
        (Some(ended), _) => ended,
        (None, parsed) => parsed.with_context(|| format!("{} is not valid JSON", path.display())),
    }
}

/// Hands the elements of a list on, one by one.
struct Rows<'a, 'b> {
    sink: Sink<'a>,
    file: Arc<std::path::PathBuf>,
    read: &'b Cell<u64>,
    /// Why the reading ended before the list did.
    ended: &'b mut Option<Result<()>>,
}

impl<'de> Visitor<'de> for Rows<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(value) = rows.next_element::<Value>()? {
            index += 1;
            let place = Place { file: self.file.clone(), row: index, is_line: false };
            match (self.sink)(Row { place, value: object(value), position: self.read.get() }) {
                Ok(ControlFlow::Continue(())) => {}
                ended => {
                    *self.ended = Some(ended.map(|_| ()));
                    return Err(serde::de::Error::custom("the rest is not read"));
                }
            }
        }
        Ok(())
    }
}

pub fn lines(path: &Path, mut bytes: impl BufRead, sink: Sink) -> Result<()> {
    let file = Arc::new(path.to_path_buf());
    let (mut row, mut position) = (0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = bytes.read_until(b'\n', &mut line).with_context(|| path.display().to_string())?;
        if count == 0 {
            return Ok(());
        }
        row += 1;
        position += count as u64;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let value = match std::str::from_utf8(&line) {
            Ok(text) => serde_json::from_str(text).context("not valid JSON").and_then(object),
            Err(_) => Err(error!("not UTF-8").hint("save the file as UTF-8")),
        };
        let place = Place { file: file.clone(), row, is_line: true };
        if sink(Row { place, value, position })?.is_break() {
            return Ok(());
        }
    }
}

fn object(row: Value) -> Result<Value> {
    if row.is_object() { Ok(row) } else { Err(error!(Row, "an object expected, found {}", kind_of(&row))) }
}
