//! Files of rows: JSON, JSON lines, CSV and parquet, read row by row, so that a file may be larger
//! than memory. The text of a file may be packed by gzip or zstd, and be UTF-16.

mod csv;
mod input;
mod json;
mod limit;
mod nesting;
mod parquet;

use std::io::{BufRead, Read, Seek};
use std::ops::ControlFlow;
use std::path::Path;

use crate::{Context, Result, bail};
use serde_json::Value;

use super::RowPlace;
use input::Input;

pub use input::open;
pub use limit::RowLimit;

/// A row, where it stands, and how many bytes of the file are read with it.
pub struct Row {
    /// Where it stands.
    pub place: RowPlace,
    /// Or what is wrong with it.
    pub value: Result<Value>,
    /// Bytes of the row itself, unpacked.
    pub bytes: usize,
    /// Bytes of the file up to its end, or a little beyond.
    pub position: u64,
}

/// What is read of a file.
#[derive(Clone, Copy)]
pub struct RowOptions<'a> {
    /// Whether a column is used. What is not used of a parquet file is not read.
    pub column: &'a dyn Fn(&str) -> bool,
    /// How long a row may be.
    pub limit: RowLimit,
}

/// So many times its size is the most that a file may hold. What is packed well, or repeats much, comes
/// to a tenth of that.
const RATIO: u64 = 1000;
/// Bytes of rows that any file may hold.
const UNPACKED: u64 = 64 << 20;

/// What takes rows, one by one, until it breaks.
pub type RowSink<'a> = &'a mut dyn FnMut(Row) -> Result<ControlFlow<()>>;

/// Reads the rows of a file, whatever kind of file it is.
pub fn read(path: &Path, options: RowOptions, sink: RowSink) -> Result<()> {
    let named = || path.display().to_string();
    let mut file = open(path)?;
    let size = file.metadata().with_context(named)?.len();
    let mut unpacked = 0;
    let sink: RowSink = &mut |row: Row| {
        unpacked += row.bytes as u64;
        if unpacked > UNPACKED && unpacked / RATIO > size {
            bail!(TooLarge, "{}: its rows are more than {RATIO} times as large as the file", path.display());
        }
        sink(row)
    };
    let mut start = Vec::new();
    (&file).take(4).read_to_end(&mut start).with_context(named)?;
    file.rewind().with_context(named)?;
    if start == b"PAR1" {
        return parquet::read(path, file, options, sink);
    }
    let mut input = Input::new(file).with_context(named)?;
    match extension(path).as_deref() {
        Some("csv") => return csv::read(path, input, b',', options.limit, sink),
        Some("tsv") => return csv::read(path, input, b'\t', options.limit, sink),
        _ => {}
    }
    match first_character(&mut input.text, options.limit.bytes).with_context(named)? {
        None => bail!(Malformed, "{} is empty", path.display()),
        Some(b'[') => json::list(path, input, options.limit, sink),
        Some(b'{') => json::lines(path, input, options.limit, sink),
        Some(found) => bail!(
            Malformed,
            "{}: a JSON list of rows or one JSON object per line expected, found {:?}",
            path.display(),
            char::from(found)
        ),
    }
}

/// The extension of a file's name, without those of packed files.
fn extension(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let name = [".gz", ".zst"].iter().find_map(|packed| name.strip_suffix(packed)).unwrap_or(&name);
    Some(name.rsplit_once('.')?.1.to_owned())
}

/// The first byte that is no white space, if there is no more white space than `most`. What stands in
/// front of it is read past only in whole buffers, so that lines are still counted.
fn first_character(text: &mut impl BufRead, most: usize) -> std::io::Result<Option<u8>> {
    let mut passed = 0;
    loop {
        let buffer = text.fill_buf()?;
        let white = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let (found, all) = (buffer.get(white).copied(), buffer.len());
        if found.is_some() || all == 0 || passed > most {
            return Ok(found);
        }
        passed += all;
        text.consume(all);
    }
}
