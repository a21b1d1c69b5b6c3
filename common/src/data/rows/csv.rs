//! Values separated by commas or tabs (RFC 4180), with the names of columns in the first row.

use std::cell::Cell;
use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use crate::{Context, Result, bail, error};
use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

use super::input::{Input, not_utf8};
use super::{Row, RowLimit, RowSink};
use crate::data::RowPlace;

/// Most columns of a table.
const COLUMNS: usize = 10_000;

/// Texts that pandas' `read_csv`, and so `datasets`, reads as a missing value, with or without quotes.
const EMPTY: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
];

pub(super) fn read(path: &Path, input: Input, separator: u8, limit: RowLimit, sink: RowSink) -> Result<()> {
    let named = || path.display().to_string();
    let file = Arc::new(path.to_path_buf());
    let place = |row| RowPlace { file: file.clone(), row, is_line: false };
    let unclosed = "; is a quote not closed?";
    let left = Cell::new(limit.bytes);
    let Input { text, position } = input;
    let text = Limited { text, left: &left };
    let mut rows =
        ReaderBuilder::new().delimiter(separator).flexible(true).has_headers(false).from_reader(text);
    let mut record = ByteRecord::new();
    let mut names: Option<Vec<String>> = None;
    let mut row = 0;
    loop {
        left.set(limit.bytes);
        let begin = rows.position().byte();
        match rows.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) if names.is_none() => bail!(Malformed, "{} is empty", path.display()),
            Ok(false) => return Ok(()),
            Err(_) if left.get() == 0 => return Err(limit.exceeded(&place(row + 1), unclosed)),
            Err(problem) => return Err(error!(Malformed, "{problem}").context(place(row + 1))),
        }
        let cells = record.iter().map(|cell| std::str::from_utf8(cell).map_err(|_| not_utf8(path, cell)));
        let Some(names) = &names else {
            let columns: Vec<String> =
                cells.map(|cell| cell.map(str::to_owned)).collect::<Result<_>>().with_context(named)?;
            if columns.len() > COLUMNS {
                bail!(Malformed, "{}: {} columns, more than {COLUMNS}", path.display(), columns.len());
            }
            names = Some(columns);
            continue;
        };
        row += 1;
        let bytes = (rows.position().byte() - begin) as usize;
        if bytes > limit.bytes {
            return Err(limit.exceeded(&place(row), unclosed));
        }
        let value = match record.len() == names.len() {
            true => names
                .iter()
                .zip(cells)
                .map(|(name, cell)| Ok((name.clone(), value(cell?))))
                .collect::<Result<Map<_, _>>>()
                .map(Value::Object),
            false => Err(error!(Row, "{} fields, where the first row has {}", record.len(), names.len())),
        };
        if sink(Row { place: place(row), value, bytes, position: position.get() })?.is_break() {
            return Ok(());
        }
    }
}

fn value(cell: &str) -> Value {
    if EMPTY.contains(&cell) { Value::Null } else { cell.into() }
}

/// A reader that fails once a row is longer than it may be.
struct Limited<'a> {
    text: Box<dyn BufRead>,
    left: &'a Cell<usize>,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(self.left.get());
        if most == 0 && !buffer.is_empty() {
            return Err(std::io::Error::other("a row without an end"));
        }
        let count = self.text.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - count);
        Ok(count)
    }
}
