//! Reads the rows of a data set as conversations, batch by batch.

use std::cell::RefCell;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use serde_json::Value;

use super::rows::RowOptions;
use super::source::SlicedFiles;
use super::{DataSource, Format, Malformed, Record, alpaca, rows, sharegpt};
use crate::cli::{self, Progress, Unit};
use crate::text::Conversation;
use crate::{Result, error};

/// Rows after which records are passed to the sink.
const BATCH: usize = 1024;
/// Bytes of rows after which records are passed to the sink, even if they are few.
const BATCH_BYTES: usize = 4 << 20;
/// Rows after which data without any usable row is given up.
const UNUSABLE: usize = 100_000;

/// Most columns that an error lists.
const LISTED: usize = 32;

/// A function that takes records: a batch, which is empty where none of many rows was usable, and the
/// number of bytes that are read of the data set so far.
pub type RecordSink<'a> = &'a mut dyn FnMut(&[Record], u64) -> Result<ControlFlow<()>>;

/// Reads the conversations of `source`, batch by batch, and returns the rows that were skipped.
///
/// Rows that are not a conversation are skipped and counted, and the first one's error is kept; under
/// `strict` reading fails with it. A data set without a usable row is an error in either case, and so is a
/// column that the user names and no row has.
pub fn records(source: &DataSource, strict: bool, sink: RecordSink) -> Result<Malformed> {
    let ranges = source
        .parts
        .iter()
        .map(|part| rows_of(source, part, source.draw.is_some()))
        .collect::<Result<Vec<_>>>()?;
    let most = source.max_samples.unwrap_or(usize::MAX);
    let drawn = source.draw.map(|draw| draw.times(ranges.iter().map(Range::len).sum(), most));
    let mut reader = Reader {
        source,
        strict,
        sink,
        format: source.format,
        malformed: Malformed::default(),
        batch: Vec::new(),
        rows: 0,
        bytes: 0,
        usable: 0,
        most,
        read: 0,
        unseen: source.format.map_or(Vec::new(), |format| source.columns.expected(format)),
    };
    let mut first = 0;
    for (part, range) in source.parts.iter().zip(ranges) {
        let times = drawn.as_deref().map(|times| &times[first..first + range.len()]);
        first = first.saturating_add(range.len());
        if reader.part(part, range, times)?.is_break() {
            break;
        }
    }
    let Reader { malformed, usable, unseen, .. } = reader;
    if usable > 0 || malformed.count < UNUSABLE {
        all_are_somewhere(source, unseen)?;
    }
    if usable == 0 {
        let problem = match malformed.first() {
            Some(first) if malformed.count >= UNUSABLE => {
                error!("no usable row among the first {}; {first}", malformed.count)
            }
            Some(first) => error!("no usable row; {first}"),
            None => error!("{source}: there are no rows"),
        };
        return Err(problem.hint(
            "a row is {\"instruction\": ..., \"input\": ..., \"output\": ...} or {\"messages\": [{\"role\": ..., \"content\": ...}]}",
        ));
    }
    Ok(malformed)
}

/// The state of reading a data set.
struct Reader<'a, 'b> {
    source: &'a DataSource,
    strict: bool,
    sink: RecordSink<'b>,
    format: Option<Format>,
    malformed: Malformed,
    batch: Vec<Record>,
    /// Rows since records were last passed to the sink, and their bytes.
    rows: usize,
    bytes: usize,
    /// The number of records that the sink has taken.
    usable: usize,
    most: usize,
    /// The bytes of all files that are finished.
    read: u64,
    /// Columns that the user names and no row has had yet, as pairs of key and name.
    unseen: Vec<(&'static str, &'a str)>,
}

impl Reader<'_, '_> {
    /// Reads the rows of a part that are in `range`, each as often as `times` says.
    fn part(
        &mut self,
        part: &SlicedFiles,
        range: Range<usize>,
        times: Option<&[u32]>,
    ) -> Result<ControlFlow<()>> {
        let source = self.source;
        let mut next = 0;
        for file in &part.files {
            if next >= range.end {
                break;
            }
            let mut position = 0;
            let options =
                RowOptions { column: &|name| source.columns.is_wanted(name), limit: source.row_limit };
            rows::read(file, options, &mut |row| {
                let index = next;
                next += 1;
                position = row.position;
                self.rows += 1;
                self.bytes += row.bytes;
                if let Ok(value) = &row.value {
                    let unread = if index == 0 { self.source.columns.unread(value) } else { Vec::new() };
                    if !unread.is_empty() {
                        let names = unread.join(", ");
                        cli::note(format_args!(
                            "{}: not read: {names}; `columns` in dataset_info.json names what is",
                            self.source
                        ));
                    }
                    self.unseen.retain(|(_, column)| value.get(column).is_none());
                }
                let times = match index.checked_sub(range.start) {
                    None => 0,
                    Some(index) => times.map_or(1, |times| times[index]),
                };
                if times > 0 && self.row(row, times)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                if self.rows >= BATCH || self.bytes > BATCH_BYTES {
                    cli::check_interrupted()?;
                    if self.deliver(position)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                let is_enough = next >= range.end || self.is_enough();
                Ok(if is_enough || self.is_hopeless() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            })?;
            let is_left = !self.batch.is_empty();
            if (is_left && self.deliver(position)?.is_break()) || self.is_enough() || self.is_hopeless() {
                return Ok(ControlFlow::Break(()));
            }
            self.read += position;
        }
        match next > range.start || !part.slice.is_bounded() {
            true => Ok(ControlFlow::Continue(())),
            false => Err(part.slice.no_rows().context(self.source)),
        }
    }

    /// Takes a row `times` times.
    fn row(&mut self, row: rows::Row, times: u32) -> Result<ControlFlow<()>> {
        let Self { source, format, .. } = self;
        let conversation = row.value.and_then(|value| {
            let format = match format {
                Some(format) => *format,
                None => *format.insert(source.recognise(&value)?),
            };
            conversation(&value, format, source)
        });
        let record = match conversation {
            Ok(conversation) => Record { conversation, place: row.place },
            Err(problem) => {
                self.malformed.add(&row.place, problem, self.strict)?;
                return Ok(ControlFlow::Continue(()));
            }
        };
        for _ in 1..times {
            self.batch.push(record.clone());
            if self.batch.len() >= BATCH && self.deliver(row.position)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.batch.push(record);
        Ok(ControlFlow::Continue(()))
    }

    /// Whether reading is given up, because [`UNUSABLE`] rows were unusable and none was usable.
    fn is_hopeless(&self) -> bool {
        self.usable + self.batch.len() == 0 && self.malformed.count >= UNUSABLE
    }

    fn is_enough(&self) -> bool {
        self.usable + self.batch.len() >= self.most
    }

    /// Passes the batch to the sink; `position` is the number of bytes read of the current file.
    fn deliver(&mut self, position: u64) -> Result<ControlFlow<()>> {
        let batch = std::mem::take(&mut self.batch);
        self.usable += batch.len();
        (self.rows, self.bytes) = (0, 0);
        let is_stopped = (self.sink)(&batch, self.read + position)?.is_break();
        Ok(if is_stopped || self.is_enough() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

fn conversation(row: &Value, format: Format, source: &DataSource) -> Result<Conversation> {
    match format {
        Format::Alpaca => alpaca::conversation(row, &source.columns),
        Format::ShareGpt => sharegpt::conversation(row, &source.columns, &source.tags),
    }
}

/// The range of rows that a part selects from its files. Rows are counted only where the range depends on
/// their number or `is_counted` asks for it; otherwise the range may end after the last row.
fn rows_of(source: &DataSource, part: &SlicedFiles, is_counted: bool) -> Result<Range<usize>> {
    if !is_counted && !part.slice.needs_count() {
        return part.slice.range(usize::MAX);
    }
    let range = part.slice.range(count(source, &part.files)?)?;
    match range.is_empty() && part.slice.is_bounded() {
        true => Err(part.slice.no_rows()),
        false => Ok(range),
    }
}

/// Counts the rows of files.
fn count(source: &DataSource, files: &[PathBuf]) -> Result<usize> {
    let size = |file: &PathBuf| fs_err::metadata(file).map_or(0, |metadata| metadata.len());
    let total: u64 = files.iter().map(size).sum();
    let progress = Progress::new("counting rows", total, Unit::Bytes);
    let (mut count, mut before) = (0_usize, 0);
    for file in files {
        let options = RowOptions { column: &|name| source.columns.is_wanted(name), limit: source.row_limit };
        rows::read(file, options, &mut |row| {
            count += 1;
            if count.is_multiple_of(BATCH) {
                cli::check_interrupted()?;
                progress.set(before + row.position);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        before += size(file);
    }
    Ok(count)
}

/// Fails where a column that the user names is in no row of the files, rows that were not selected
/// included. `unseen` are the columns that no selected row had.
fn all_are_somewhere(source: &DataSource, mut unseen: Vec<(&str, &str)>) -> Result<()> {
    if unseen.is_empty() {
        return Ok(());
    }
    let found = RefCell::new(Vec::new());
    let find = |name: &str| {
        let mut found = found.borrow_mut();
        if found.len() < LISTED && !found.iter().any(|known| known == name) {
            found.push(name.to_owned());
        }
        source.columns.is_wanted(name)
    };
    for file in source.files() {
        let mut count = 0_usize;
        rows::read(file, RowOptions { column: &find, limit: source.row_limit }, &mut |row| {
            count += 1;
            if count.is_multiple_of(BATCH) {
                cli::check_interrupted()?;
            }
            let value = row.value.unwrap_or_default();
            unseen.retain(|(_, column)| value.get(column).is_none());
            for name in value.as_object().into_iter().flat_map(|row| row.keys()) {
                find(name);
            }
            Ok(if unseen.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
    }
    let Some((key, column)) = unseen.first() else { return Ok(()) };
    Err(error!("{source}: no row has the column {column:?}, which `columns` names for {key}")
        .hint(format_args!("the columns are {}; null names none", found.borrow().join(", "))))
}
