//! Decompresses and checks the pages of a column before the library decodes them.
//!
//! The library trusts the numbers of a page: its uncompressed length, the values of a dictionary, the
//! elements of a row. So it is told that nothing is compressed, and gets pages from here that are
//! decompressed and whose numbers are plausible.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescriptor;

use super::file::Chunks;
use super::levels::Records;
use super::packed::Problem;
use super::{delta, packed};

/// The bytes that a decoded value takes besides its text.
const VALUE: usize = 32;

/// The memory that the pages of all columns may take together.
pub(super) struct Memory {
    most: usize,
    held: AtomicUsize,
    is_exceeded: AtomicBool,
}

impl Memory {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: AtomicUsize::new(0), is_exceeded: AtomicBool::new(false) })
    }

    fn left(&self) -> usize {
        self.most.saturating_sub(self.held.load(Ordering::Relaxed))
    }

    /// Whether a page was refused because it would have exceeded the memory.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    fn exceeded(&self) -> ParquetError {
        self.is_exceeded.store(true, Ordering::Relaxed);
        problem("pages that are too large".into())
    }
}

/// A share of the memory, which is returned when it is dropped.
struct Held {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Held {
    fn take(memory: &Arc<Memory>, bytes: usize) -> Result<Self> {
        if bytes > memory.left() {
            return Err(memory.exceeded());
        }
        memory.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(Self { memory: memory.clone(), bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The pages of a column in a row group.
pub(super) struct Pages {
    packed: SerializedPageReader<Chunks>,
    compression: Compression,
    column: Arc<ColumnDescriptor>,
    memory: Arc<Memory>,
    dictionary: Option<Held>,
    page: Option<Held>,
    records: Records,
}

impl Pages {
    pub(super) fn new(
        file: &Arc<Chunks>,
        column: &ColumnChunkMetaData,
        rows: usize,
        memory: &Arc<Memory>,
    ) -> Result<Self> {
        let compression = column.compression();
        let plain = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        Ok(Self {
            packed: SerializedPageReader::new(file.clone(), &plain, rows, None)?,
            compression,
            column: column.column_descr_ptr(),
            memory: memory.clone(),
            dictionary: None,
            page: None,
            records: Records::new(column.column_descr().max_rep_level()),
        })
    }

    fn unpack(&self, bytes: &[u8]) -> Result<Bytes> {
        packed::unpack(self.compression, bytes, self.memory.left()).map(Bytes::from).map_err(
            |why| match why {
                Problem::TooLarge => self.memory.exceeded(),
                Problem::Damaged(text) => problem(text),
            },
        )
    }

    /// Decompresses and checks a dictionary page, whose values are all decoded at once.
    fn dictionary(&mut self, bytes: Bytes, values: u32) -> Result<Bytes> {
        let bytes = self.unpack(&bytes)?;
        let shortest = match self.column.physical_type() {
            Type::BYTE_ARRAY | Type::INT32 | Type::FLOAT => 4,
            Type::INT64 | Type::DOUBLE => 8,
            Type::INT96 => 12,
            Type::FIXED_LEN_BYTE_ARRAY | Type::BOOLEAN => 1,
        };
        if values as usize > bytes.len() / shortest {
            return Err(problem(format!("a dictionary of {values} values in {} bytes", bytes.len())));
        }
        self.dictionary = Some(Held::take(&self.memory, bytes.len() + VALUE * values as usize)?);
        Ok(bytes)
    }

    /// Checks a data page, whose values begin after two lists of levels. In pages of version 2 the lengths
    /// of the lists are known; in pages of version 1 the lists tell them.
    fn data(
        &mut self,
        bytes: &Bytes,
        values: u32,
        encoding: Encoding,
        lengths: Option<[u32; 2]>,
    ) -> Result<()> {
        self.page = Some(Held::take(&self.memory, bytes.len())?);
        let mut rest = &bytes[..];
        let mut level = |length: Option<u32>, is_there: bool| -> Result<&[u8]> {
            let length = match length {
                Some(length) => length,
                None if !is_there => 0,
                None => {
                    let (length, after) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
                    rest = after;
                    u32::from_le_bytes(*length)
                }
            };
            let (levels, after) = rest.split_at_checked(length as usize).ok_or_else(damaged)?;
            rest = after;
            Ok(levels)
        };
        let [repetition, definition] = lengths.map_or([None; 2], |lengths| lengths.map(Some));
        let repetitions = level(repetition, self.column.max_rep_level() > 0)?;
        level(definition, self.column.max_def_level() > 0)?;
        let longest = self.records.longest(repetitions, values as usize).map_err(problem)?;
        delta::check(encoding, rest, values as usize).map_err(problem)?;
        // Values that share beginnings are decoded for a whole row at once.
        if encoding == Encoding::DELTA_BYTE_ARRAY && longest.saturating_mul(rest.len()) > self.memory.left() {
            return Err(self.memory.exceeded());
        }
        Ok(())
    }

    /// Decompresses a page and checks it.
    fn checked(&mut self, page: Page) -> Result<Page> {
        Ok(match page {
            Page::DictionaryPage { buf, num_values, encoding, is_sorted } => {
                let buf = self.dictionary(buf, num_values)?;
                Page::DictionaryPage { buf, num_values, encoding, is_sorted }
            }
            Page::DataPage {
                buf,
                num_values,
                encoding,
                def_level_encoding,
                rep_level_encoding,
                statistics,
            } => {
                let levels = [
                    (self.column.max_rep_level(), rep_level_encoding),
                    (self.column.max_def_level(), def_level_encoding),
                ];
                if levels.iter().any(|(most, encoding)| *most > 0 && *encoding != Encoding::RLE) {
                    return Err(problem("levels that are not run-length encoded".into()));
                }
                self.page = None;
                let buf = self.unpack(&buf)?;
                self.data(&buf, num_values, encoding, None)?;
                Page::DataPage {
                    buf,
                    num_values,
                    encoding,
                    def_level_encoding,
                    rep_level_encoding,
                    statistics,
                }
            }
            Page::DataPageV2 {
                buf,
                num_values,
                encoding,
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed,
                statistics,
            } => {
                self.page = None;
                let levels = (def_levels_byte_len as usize).saturating_add(rep_levels_byte_len as usize);
                let (levels, values) = buf.split_at_checked(levels).ok_or_else(damaged)?;
                let buf = match is_compressed {
                    true => Bytes::from([levels, &self.unpack(values)?[..]].concat()),
                    false => buf.clone(),
                };
                self.data(&buf, num_values, encoding, Some([rep_levels_byte_len, def_levels_byte_len]))?;
                Page::DataPageV2 {
                    buf,
                    num_values,
                    encoding,
                    num_nulls,
                    num_rows,
                    def_levels_byte_len,
                    rep_levels_byte_len,
                    is_compressed: false,
                    statistics,
                }
            }
        })
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.packed.get_next_page()?.map(|page| self.checked(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.packed.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.packed.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.packed.at_record_boundary()
    }
}

fn damaged() -> ParquetError {
    problem("a page that ends early".into())
}

fn problem(text: String) -> ParquetError {
    ParquetError::General(text)
}
