//! Writes the tensors of a GGUF file, a few rows at a time on all threads.

use std::ops::Range;

use common::cli::{self, Progress};
use common::gguf::{GgufWriter, encode_rows};
use common::llama_cpp::neighbours;
use common::{Result, bail, error};
use rayon::prelude::*;

use super::tensors::{GgufTensor, Source};
use crate::base::bytes_of_rows;
use crate::plan::OutputTensor;

/// Elements that a thread converts at a time: 1 MiB of f32.
const BLOCK: usize = 1 << 18;
/// How many blocks are read from disk while others are converted.
const AHEAD: usize = 128;

/// Computes and writes all tensors, in the order of the file. Counts the written bytes on `progress`.
pub(super) fn write_all(tensors: &[GgufTensor<'_>], writer: &GgufWriter, progress: &Progress) -> Result<()> {
    let blocks = || tensors.iter().flat_map(GgufTensor::blocks);
    let mut ahead = blocks().skip(AHEAD);
    let blocks = blocks().inspect(move |_| {
        if let Some(block) = ahead.next() {
            block.prefetch();
        }
    });
    blocks.par_bridge().try_for_each_init(
        || (Vec::new(), Vec::new()),
        |(values, bytes), block| {
            cli::check_interrupted()?;
            block.write(writer, progress, values, bytes)
        },
    )
}

/// Rows of a tensor that a thread converts at a time.
struct Block<'a> {
    tensor: &'a GgufTensor<'a>,
    /// What the rows are of, where the values are weights.
    part: Option<&'a OutputTensor<'a>>,
    /// The rows of the part.
    rows: Range<usize>,
    /// The first of these rows, counted in the tensor.
    first: usize,
}

impl GgufTensor<'_> {
    /// All rows in order.
    fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        let parts = match &self.source {
            Source::Values(_) => vec![None],
            Source::Folded { parts, .. } => parts.iter().map(|part| Some(*part)).collect(),
        };
        let rows = parts[0].map_or(1, |part| part.rows_and_columns().0);
        let rows = if self.info.columns() == 0 { 0 } else { rows };
        let rows_each = self.rows_each(rows);
        parts.into_iter().enumerate().flat_map(move |(place, part)| {
            (0..rows).step_by(rows_each).map(move |start| Block {
                tensor: self,
                part,
                rows: start..rows.min(start + rows_each),
                first: place * rows + start,
            })
        })
    }

    /// The number of rows that a thread converts at a time: whole heads where rows are put in another order.
    fn rows_each(&self, rows: usize) -> usize {
        let fit = (BLOCK / self.info.columns().max(1)).max(1);
        match self.source {
            Source::Folded { heads_of: Some(size), .. } if rows > 1 => (fit / size * size).max(size),
            _ => fit,
        }
    }
}

impl Block<'_> {
    /// Asks the kernel to read the weights from disk now, in the background.
    fn prefetch(&self) {
        if let Some(part) = self.part {
            let (count, _) = part.rows_and_columns();
            bytes_of_rows(&part.weight, self.rows.clone(), count).for_each(|bytes| bytes.prefetch());
        }
    }

    /// Computes and writes the rows, with buffers that are used again.
    fn write(
        &self,
        writer: &GgufWriter,
        progress: &Progress,
        values: &mut Vec<f32>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        if self.first == 0 {
            progress.message(self.tensor.info.name.clone());
        }
        match (&self.tensor.source, self.part) {
            (Source::Folded { heads_of, offset, .. }, Some(part)) => {
                values.resize(self.rows.len() * self.tensor.info.columns(), 0.0);
                self.fold(part, *heads_of, *offset, values)?;
                self.encode(writer, progress, values, bytes)
            }
            (Source::Values(values), _) => self.encode(writer, progress, values, bytes),
            (Source::Folded { .. }, None) => bail!(Bug, "a block of weights has none"),
        }
    }

    /// Computes the rows in f32, and gives back the memory of the weights that have been read.
    fn fold(
        &self,
        part: &OutputTensor<'_>,
        heads_of: Option<usize>,
        offset: f32,
        out: &mut [f32],
    ) -> Result<()> {
        part.fold(self.rows.clone(), out)?;
        self.release(part);
        let info = &self.tensor.info;
        if let Some(size) = heads_of {
            let width = if info.shape.len() == 1 { 1 } else { info.columns() };
            neighbours(out, size, width);
        }
        if offset != 0.0 {
            out.iter_mut().for_each(|value| *value += offset);
        }
        Ok(())
    }

    /// Gives back the memory of the weights. With a page that is read the kernel also maps some before it, which other
    /// blocks have released already, so these are released once more.
    fn release(&self, part: &OutputTensor<'_>) {
        let (count, _) = part.rows_and_columns();
        let begin = match self.rows.end == count {
            true => 0,
            false => self.rows.start.saturating_sub(4 * self.rows.len()),
        };
        bytes_of_rows(&part.weight, begin..self.rows.end, count).for_each(|bytes| bytes.release());
    }

    fn encode(
        &self,
        writer: &GgufWriter,
        progress: &Progress,
        values: &[f32],
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let info = &self.tensor.info;
        let (columns, kind, name) = (info.columns(), info.kind, &info.name);
        bytes.resize(values.len() / columns * kind.row_bytes(columns), 0);
        if let Some(index) = encode_rows(kind, values, bytes) {
            let (value, row, column) = (values[index], self.first + index / columns, index % columns);
            if value.is_finite() {
                bail!(Malformed, "tensor {name}: {value} at [{row}, {column}] is too large for {kind}");
            }
            return Err(error!("tensor {name} becomes {value} at [{row}, {column}]").hint(
                "the adapter diverged in training, or the base is damaged; merge an earlier checkpoint",
            ));
        }
        progress.add(bytes.len() as u64);
        writer.write_part(name, (self.first * kind.row_bytes(columns)) as u64, bytes)
    }
}
