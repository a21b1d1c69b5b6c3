//! Files of rows: JSON, JSON lines, CSV and parquet, read row by row, so that a file may be larger
//! than memory.

mod csv;
mod json;
mod parquet;

use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use crate::{Context, Result, bail};
use serde_json::Value;

use super::Place;

/// A row, where it stands, and how many bytes of the file are read with it.
pub struct Row {
    /// Where it stands.
    pub place: Place,
    /// Or what is wrong with it.
    pub value: Result<Value>,
    /// Bytes of the file up to its end.
    pub position: u64,
}

/// What takes rows, one by one, until it breaks.
pub type Sink<'a> = &'a mut dyn FnMut(Row) -> Result<ControlFlow<()>>;

/// Reads the rows of a file, whatever kind of file it is.
pub fn read(path: &Path, sink: Sink) -> Result<()> {
    let hint = "examples are read from JSON, JSON lines, CSV and parquet files";
    let file = fs_err::File::open(path).hint(hint)?;
    if file.metadata()?.is_dir() {
        return Err(crate::error!("{} is a directory", path.display()).hint(hint));
    }
    let mut bytes = BufReader::with_capacity(1 << 16, file);
    let start = bytes.fill_buf().with_context(|| path.display().to_string())?;
    if start.starts_with(b"PAR1") {
        return parquet::read(path, sink);
    }
    let mark = usize::from(start.starts_with(b"\xEF\xBB\xBF")) * 3;
    bytes.consume(mark);
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
    match extension.as_deref() {
        Some("csv") => return csv::read(path, bytes, b',', sink),
        Some("tsv") => return csv::read(path, bytes, b'\t', sink),
        _ => {}
    }
    match first_character(&mut bytes).with_context(|| path.display().to_string())? {
        None => bail!(Malformed, "{} is empty", path.display()),
        Some(b'[') => json::list(path, bytes, sink),
        Some(b'{') => json::lines(path, bytes, sink),
        Some(found) => bail!(
            Malformed,
            "{}: a JSON list of rows or one JSON object per line expected, found {:?}",
            path.display(),
            char::from(found)
        ),
    }
}

/// The first byte that is no white space; white space before it is read past.
fn first_character(bytes: &mut impl BufRead) -> std::io::Result<Option<u8>> {
    loop {
        let buffer = bytes.fill_buf()?;
        let (white, all) =
            (buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count(), buffer.len());
        let found = buffer.get(white).copied();
        // Line breaks count: what stands in front of the first row numbers it.
        if found.is_some() || all == 0 {
            return Ok(found);
        }
        bytes.consume(white);
    }
}

/// Counts what is read.
struct Counting<'a, R> {
    inner: R,
    read: &'a std::cell::Cell<u64>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}
