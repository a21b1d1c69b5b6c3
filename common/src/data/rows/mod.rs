//! Reads files of rows (JSON, JSON lines, CSV and parquet) row by row, so that a file may be larger than
//! memory. Text may be compressed with gzip or zstd, and be UTF-8 or UTF-16.

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

/// A row with its place, and the number of bytes of the file that are read with it.
pub struct Row {
    /// The place of the row in its file.
    pub place: RowPlace,
    /// The content of the row, or the error that makes it unusable.
    pub value: Result<Value>,
    /// The bytes of the row itself, uncompressed.
    pub bytes: usize,
    /// The bytes of the file up to the end of the row, or a few more.
    pub position: u64,
}

/// The options of reading a file of rows.
#[derive(Clone, Copy)]
pub struct RowOptions<'a> {
    /// Whether a column is used. Unused columns of a parquet file are not read.
    pub column: &'a dyn Fn(&str) -> bool,
    /// The bound on the length of a row.
    pub limit: RowLimit,
}

/// The most that the rows of a file may have together, as a multiple of the file's size. Well compressed or
/// repetitive files reach a tenth of that.
const RATIO: u64 = 1000;
/// The bytes of rows that a file of any size may hold.
const UNPACKED: u64 = 64 << 20;

/// A function that takes rows, one by one, until it returns a break.
pub type RowSink<'a> = &'a mut dyn FnMut(Row) -> Result<ControlFlow<()>>;

/// Reads the rows of a file, whose kind is recognised by its name and content.
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

/// The extension of a file's name, in lower case, before a `.gz` or `.zst`.
fn extension(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let name = [".gz", ".zst"].iter().find_map(|packed| name.strip_suffix(packed)).unwrap_or(&name);
    Some(name.rsplit_once('.')?.1.to_owned())
}

/// The first byte that is not white space, if at most `most` bytes of white space come before it. White
/// space is passed only in whole buffers, so that lines are still counted.
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
