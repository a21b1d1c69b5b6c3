//! Writes the tensors of a GGUF file, a few rows at a time on all threads.

use common::cli::{self, Progress};
use common::gguf::{GgufWriter, encode_rows};
use common::kernels::linear::Weight;
use common::llama_cpp::neighbours;
use common::{Result, bail, error};
use rayon::prelude::*;

use super::tensors::{GgufTensor, Source};
use crate::base::release;
use crate::plan::OutputTensor;

/// Elements that a thread converts at a time: 1 MiB of f32.
const BLOCK: usize = 1 << 18;

impl GgufTensor<'_> {
    /// Computes and writes all rows. Counts the written bytes on `progress`.
    pub(super) fn write(&self, writer: &GgufWriter, progress: &Progress) -> Result<()> {
        let columns = self.info.columns();
        if columns == 0 {
            return Ok(());
        }
        let parts = match &self.source {
            Source::Values(values) => return self.write_rows(writer, progress, 0, values, &mut Vec::new()),
            Source::Folded { parts, .. } => parts,
        };
        let rows = parts.first().map_or(0, |part| part.rows_and_columns().0);
        let rows_each = self.rows_each(rows);
        let blocks = rows.div_ceil(rows_each);
        (0..parts.len() * blocks).into_par_iter().try_for_each_init(
            || (Vec::new(), Vec::new()),
            |(values, bytes), block| {
                cli::check_interrupted()?;
                let (part, start) = (block / blocks, block % blocks * rows_each);
                let range = start..rows.min(start + rows_each);
                values.resize(range.len() * columns, 0.0);
                self.read(parts[part], range.clone(), values)?;
                release_rows(parts[part], rows, range);
                self.write_rows(writer, progress, part * rows + start, values, bytes)
            },
        )?;
        parts.iter().for_each(|part| release(&part.weight));
        Ok(())
    }

    /// The number of rows that a thread converts at a time: whole heads where rows are put in another order.
    fn rows_each(&self, rows: usize) -> usize {
        let fit = (BLOCK / self.info.columns()).max(1);
        match self.source {
            Source::Folded { heads_of: Some(size), .. } if rows > 1 => (fit / size * size).max(size),
            _ => fit,
        }
    }

    /// Computes rows in f32.
    fn read(&self, tensor: &OutputTensor<'_>, rows: std::ops::Range<usize>, out: &mut [f32]) -> Result<()> {
        let Source::Folded { heads_of, offset, .. } = &self.source else { return Ok(()) };
        tensor.fold(rows, out)?;
        if let Some(size) = *heads_of {
            let width = if self.info.shape.len() == 1 { 1 } else { self.info.columns() };
            neighbours(out, size, width);
        }
        if *offset != 0.0 {
            out.iter_mut().for_each(|value| *value += offset);
        }
        Ok(())
    }

    fn write_rows(
        &self,
        writer: &GgufWriter,
        progress: &Progress,
        first: usize,
        values: &[f32],
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let (columns, kind, name) = (self.info.columns(), self.info.kind, &self.info.name);
        bytes.resize(values.len() / columns * kind.row_bytes(columns), 0);
        if let Some(index) = encode_rows(kind, values, bytes) {
            let (value, row, column) = (values[index], first + index / columns, index % columns);
            if value.is_finite() {
                bail!(Malformed, "tensor {name}: {value} at [{row}, {column}] is too large for {kind}");
            }
            return Err(error!("tensor {name} becomes {value} at [{row}, {column}]").hint(
                "the adapter diverged in training, or the base is damaged; merge an earlier checkpoint",
            ));
        }
        progress.add(bytes.len() as u64);
        writer.write_part(name, (first * kind.row_bytes(columns)) as u64, bytes)
    }
}

/// Gives back the memory of rows that have been read, so that a table of a gigabyte is never resident as a whole.
fn release_rows(tensor: &OutputTensor<'_>, rows: usize, range: std::ops::Range<usize>) {
    if let Weight::Dense(dense) = &tensor.weight {
        let row = dense.bytes.len() / rows;
        if let Some(read) = dense.bytes.slice(range.start * row..range.end * row) {
            read.release();
        }
    }
}
