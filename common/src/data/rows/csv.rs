//! Values separated by commas or tabs (RFC 4180), with the names of columns in the first row.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use crate::{Context, Error, Result, bail, error};
use serde_json::{Map, Value};

use super::{Row, Sink};
use crate::data::Place;

pub fn read(path: &Path, bytes: impl BufRead, separator: u8, sink: Sink) -> Result<()> {
    let mut rows = csv::ReaderBuilder::new().delimiter(separator).from_reader(bytes);
    let names = rows.headers().map_err(Error::malformed).with_context(|| path.display().to_string())?.clone();
    if names.is_empty() {
        bail!(Malformed, "{} is empty", path.display());
    }
    let file = Arc::new(path.to_path_buf());
    let mut record = csv::StringRecord::new();
    let mut row = 0;
    loop {
        let value = match rows.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let cells = names.iter().zip(&record);
                let cells = cells.map(|(name, cell)| (name.to_owned(), Value::String(cell.to_owned())));
                Ok(Value::Object(cells.collect::<Map<_, _>>()))
            }
            Err(problem) if problem.is_io_error() => {
                return Err(error!(Row, "{problem}").context(path.display()));
            }
            Err(problem) => Err(error!(Row, "{problem}")),
        };
        row += 1;
        let place = Place { file: file.clone(), row, is_line: false };
        if sink(Row { place, value, position: rows.position().byte() })?.is_break() {
            return Ok(());
        }
    }
}
