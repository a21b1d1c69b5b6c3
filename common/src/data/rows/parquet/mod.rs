//! Parquet files, as the hub keeps data sets.
//!
//! | file | what it does |
//! |---|---|
//! | `file` | reads ranges of the file |
//! | `footer` | looks at the schema before the library does |
//! | `pages`, `packed`, `levels`, `delta` | unpack and check pages before the library decodes them |
//! | `column` | reads the values of one column, row by row |
//! | `tree` | puts the columns of a row together |

mod column;
mod delta;
mod file;
mod footer;
mod levels;
mod packed;
mod pages;
mod tree;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::error::Kind;
use crate::{Error, Result, bail, error, panics};
use parquet::errors;
use parquet::file::metadata::{ParquetMetaDataReader, RowGroupMetaData};

use super::{Row, RowLimit, RowOptions, RowSink};
use crate::data::RowPlace;
use column::{Cells, Column};
use file::Chunks;
use pages::{Memory, Pages};
use tree::{Assembly, Table};

/// The most memory that the pages of all columns may take together, as a multiple of a row's bound.
const PAGES: usize = 16;
/// Most rows for each byte of a file. Equal rows take less than a byte, but files of examples do not have
/// that many of them.
const ROWS: u64 = 1000;
/// The number of rows that a file may have whatever its size.
const FEW: u64 = 10_000_000;

pub(super) fn read(path: &Path, file: File, options: RowOptions, sink: RowSink) -> Result<()> {
    read_rows(path, file, options, sink).map_err(|problem| match problem.kind() {
        Kind::Malformed => problem.context(path.display()),
        _ => problem,
    })
}

fn read_rows(path: &Path, file: File, options: RowOptions, sink: RowSink) -> Result<()> {
    let size = file.metadata()?.len();
    let chunks = Arc::new(Chunks::new(file)?);
    footer::check(&chunks)?;
    let metadata = library(|| ParquetMetaDataReader::new().parse_and_finish(&*chunks))?;
    let groups = metadata.row_groups();
    let count = |group: &RowGroupMetaData| u64::try_from(group.num_rows()).ok();
    let rows = groups.iter().try_fold(0u64, |sum, group| sum.checked_add(count(group)?));
    let rows = rows.filter(|rows| *rows <= FEW || rows / ROWS <= size);
    let rows = rows.ok_or_else(|| error!(Malformed, "more rows than {size} bytes can hold"))?;
    let schema = metadata.file_metadata().schema();
    let table = Table::new(schema, options.column)?;
    if table.leaves.is_empty() {
        let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
        return Err(error!("{}: no column of examples, found {}", path.display(), names.join(", "))
            .hint("examples have the columns instruction and output, messages or conversations; dataset_info.json maps others"));
    }
    let mut place = RowPlace { file: Arc::new(path.to_path_buf()), row: 0, is_line: false };
    for group in groups {
        let mut group = Group::open(&chunks, group, &table, options.limit)?;
        while group.left > 0 {
            place.row += 1;
            let (value, bytes) = group.next(&table, &place)?;
            let position = (size as f64 * place.row as f64 / rows as f64) as u64;
            if sink(Row { place: place.clone(), value, bytes, position })?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A row group that is being read.
struct Group {
    columns: Vec<Box<dyn Column>>,
    cells: Vec<Cells>,
    memory: Arc<Memory>,
    limit: RowLimit,
    /// The number of rows that are left.
    left: usize,
}

impl Group {
    fn open(chunks: &Arc<Chunks>, group: &RowGroupMetaData, table: &Table, limit: RowLimit) -> Result<Self> {
        let left = usize::try_from(group.num_rows()).map_err(Error::malformed)?;
        let memory = Memory::new(limit.bytes.saturating_mul(PAGES));
        let open = |&leaf: &usize| {
            library(|| {
                let chunk = group
                    .columns()
                    .get(leaf)
                    .ok_or_else(|| errors::ParquetError::General("a column is missing".into()))?;
                let pages = Pages::new(chunks, chunk, left, &memory)?;
                Ok(column::open(&chunk.column_descr_ptr(), Box::new(pages)))
            })
        };
        let columns = table.leaves.iter().map(open).collect::<Result<Vec<_>>>()?;
        let cells = columns.iter().map(|_| Cells::default()).collect();
        Ok(Self { columns, cells, memory, limit, left })
    }

    /// The next row, or the error that makes it unusable, and the number of its bytes.
    fn next(&mut self, table: &Table, place: &RowPlace) -> Result<(Result<serde_json::Value>, usize)> {
        let mut elements = 0;
        for (column, cells) in self.columns.iter_mut().zip(&mut self.cells) {
            let read = library(|| column.read(cells)).map_err(|problem| match self.memory.is_exceeded() {
                true => self.limit.exceeded(place, &format!("; the pages around it take {PAGES} times that")),
                false => problem.context(format_args!("row {}", place.row)),
            });
            if !read? {
                bail!(Malformed, "row {}: a column ends before it", place.row);
            }
            elements += cells.definitions.len();
            if elements > 4 * levels::ELEMENTS {
                return Err(self.limit.exceeded(place, "; it has millions of elements"));
            }
        }
        self.left -= 1;
        let mut assembly = Assembly::new(&self.columns, &self.cells, place, self.limit);
        match assembly.row(table) {
            Err(problem) if problem.kind() != Kind::Row => Err(problem),
            row => Ok((row, assembly.bytes)),
        }
    }
}

/// Runs work of the parquet library, and turns its panics on damaged files into errors.
fn library<T>(work: impl FnOnce() -> errors::Result<T>) -> Result<T> {
    match panics::caught(work) {
        Ok(done) => done.map_err(Error::malformed),
        Err(said) => Err(error!(Malformed, "damaged: {said}")),
    }
}
