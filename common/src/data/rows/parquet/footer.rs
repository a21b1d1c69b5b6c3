//! Checks how deep the schema in a parquet file's footer is nested, because the library reads it by
//! recursion.
//!
//! The footer is a `FileMetaData` of Thrift's compact protocol; its second field is the list of the
//! schema's elements, parents before children, each with the number of its children.

use parquet::file::reader::{ChunkReader, Length};

use super::file::Chunks;
use crate::{Error, Result, bail, error};

/// Most bytes of a footer.
const BYTES: usize = 64 << 20;
/// The deepest nesting of lists and objects; a list counts as two levels.
const DEPTH: usize = 200;
/// The deepest nesting of fields that are skipped.
const PASSED: usize = 32;

/// Fails where a file has no footer, or a schema that is nested too deeply.
pub(super) fn check(file: &Chunks) -> Result<()> {
    let damaged = || error!(Malformed, "not a whole parquet file");
    let end = file.len().checked_sub(8).ok_or_else(damaged)?;
    let tail = file.get_bytes(end, 8).map_err(Error::malformed)?;
    if &tail[4..] != b"PAR1" {
        return Err(damaged());
    }
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
    if length > BYTES {
        bail!(TooLarge, "a footer of {} MiB, more than {}", length >> 20, BYTES >> 20);
    }
    let begin = end.checked_sub(length as u64).ok_or_else(damaged)?;
    let footer = file.get_bytes(begin, length).map_err(Error::malformed)?;
    let children = Thrift(&footer).schema().ok_or_else(|| error!(Malformed, "a footer without a schema"))?;
    // How many children are still to come, of each element that is open.
    let mut open: Vec<u64> = Vec::new();
    for count in children {
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        open.push(count);
        if open.len() > DEPTH {
            bail!(Malformed, "columns that are nested deeper than {DEPTH} levels");
        }
    }
    Ok(())
}

/// The rest of a message in Thrift's compact protocol. All methods return `None` where it is damaged.
struct Thrift<'a>(&'a [u8]);

impl Thrift<'_> {
    /// The number of children of every element of the schema.
    fn schema(&mut self) -> Option<Vec<u64>> {
        let mut id = 0;
        loop {
            let kind = self.field(&mut id)?;
            if (id, kind) == (2, LIST) {
                let (count, _) = self.list()?;
                return (0..count).map(|_| self.children()).collect();
            }
            self.pass(kind, PASSED)?;
        }
    }

    /// Reads an element of the schema, and returns the number of its children.
    fn children(&mut self) -> Option<u64> {
        let (mut id, mut children) = (0, 0);
        loop {
            match (self.field(&mut id)?, id) {
                (STOP, _) => return Some(children),
                // Zigzag: a negative number is odd.
                (I32, 5) => children = Some(self.number()?).filter(|number| number % 2 == 0)? / 2,
                (kind, _) => self.pass(kind, PASSED)?,
            }
        }
    }

    /// The type of the next field, whose id is relative to that of the last one.
    fn field(&mut self, id: &mut i64) -> Option<u8> {
        let byte = self.byte()?;
        let kind = byte & 0xF;
        match byte >> 4 {
            _ if kind == STOP => {}
            0 => {
                let number = self.number()?;
                *id = (number >> 1) as i64 ^ -((number & 1) as i64);
            }
            more => *id += i64::from(more),
        }
        Some(kind)
    }

    /// The length of a list and the type of its elements, each of which takes at least one byte.
    fn list(&mut self) -> Option<(usize, u8)> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => usize::try_from(self.number()?).ok()?,
            count => usize::from(count),
        };
        (count <= self.0.len()).then_some((count, byte & 0xF))
    }

    fn pass(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.number()?),
            7 => self.bytes(8)?,
            8 => {
                let length = usize::try_from(self.number()?).ok()?;
                self.bytes(length)?;
            }
            LIST | 10 => {
                let (count, kind) = self.list()?;
                (0..count).try_for_each(|_| self.pass(kind, depth))?;
            }
            11 => {
                let count = self.number()?;
                if count > 0 {
                    let kinds = self.byte()?;
                    for _ in 0..count.min(self.0.len() as u64) {
                        self.pass(kinds >> 4, depth)?;
                        self.pass(kinds & 0xF, depth)?;
                    }
                }
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = Some(self.field(&mut id)?).filter(|kind| *kind != STOP) {
                    self.pass(kind, depth)?;
                }
            }
            13 => self.bytes(16)?,
            _ => return None,
        }
        Some(())
    }

    fn bytes(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

const STOP: u8 = 0;
const I32: u8 = 5;
const LIST: u8 = 9;
