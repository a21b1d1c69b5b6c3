//! Folds updates into a weight: `W + Σ factor · scale · B · A` in f32, rounded once to the dtype of `W`.

use std::ops::Range;

use common::checkpoint::{Bytes, FileWriter, Tensor, cast_from_f32};
use common::cli::{self, Progress};
use common::kernels::Write;
use common::kernels::linear::Weight;
use common::kernels::product::{Matrix, MatrixMut, Threads, product};
use common::nf4::Quantized;
use common::{Result, bail, error};
use rayon::prelude::*;

use crate::base::release;
use crate::plan::OutputTensor;

/// Elements that a thread folds at a time: 1 MiB of f32, which stays in its cache.
const BLOCK: usize = 1 << 18;

impl OutputTensor<'_> {
    /// Reads the rows `rows` of the weight into `out` `[rows, columns]`, in f32, without any change.
    pub(crate) fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (_, columns) = self.rows_and_columns();
        match &self.weight {
            Weight::Dense(tensor) => tensor.read_f32(rows.start * columns..rows.end * columns, out),
            Weight::Quantized(quantized) => {
                quantized.dequantize_rows(rows, out);
                Ok(())
            }
        }
    }

    /// Reads and folds the rows `rows` into `out` `[rows, columns]`, in f32.
    pub(crate) fn fold(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (_, columns) = self.rows_and_columns();
        self.read(rows.clone(), out)?;
        if let Some(trained) = self.rows {
            let here = trained.indices.iter().enumerate().filter(|(_, row)| rows.contains(row));
            for (position, row) in here {
                let at = (row - rows.start) * columns;
                let source = position * columns..(position + 1) * columns;
                trained.values.read_f32(source, &mut out[at..at + columns])?;
            }
        }
        for (lora, counts) in &self.updates {
            // [rows, r] · [r, columns]
            let b = Matrix::new(&lora.b[rows.start * lora.rank..rows.end * lora.rank], rows.len(), lora.rank);
            let a = Matrix::new(lora.a, lora.rank, columns);
            let out = MatrixMut::new(out, rows.len(), columns);
            product(out, Write::Add, lora.scale * counts, b, a, Threads::One);
        }
        Ok(())
    }

    /// Writes the folded tensor. Counts the written bytes on `progress`.
    pub(crate) fn write(&self, writer: &FileWriter, progress: &Progress) -> Result<()> {
        let name = &self.spec.name;
        if let Some(tensor) = self.unchanged() {
            writer.copy(name, &tensor.bytes, |bytes| progress.add(bytes))?;
        } else if let Weight::Quantized(quantized) = &self.weight
            && self.requantize
        {
            let tensors = match self.updates.is_empty() && self.rows.is_none() {
                true => quantized.clone().with_dtype(self.spec.dtype).to_tensors(name)?,
                false => Quantized::quantize(&self.folded()?, quantized.scheme())?.to_tensors(name)?,
            };
            for tensor in tensors {
                writer.write(&tensor.name, &tensor.bytes)?;
                progress.add(tensor.bytes.len() as u64);
            }
        } else {
            self.each_block(|offset, bytes| {
                progress.add(bytes.len() as u64);
                writer.write_part(name, offset, bytes)
            })?;
        }
        release(&self.weight);
        Ok(())
    }

    /// The folded tensor in memory.
    pub(crate) fn folded(&self) -> Result<Tensor> {
        let (rows, columns) = self.rows_and_columns();
        let mut bytes = vec![0; rows * self.row_size()];
        let rows_each = (BLOCK / columns.max(1)).max(1);
        bytes.par_chunks_mut((rows_each * self.row_size()).max(1)).enumerate().try_for_each(
            |(block, out)| {
                let start = block * rows_each;
                let mut values = vec![0.0; out.len() / self.row_size() * columns];
                self.fold_block(start..start + values.len() / columns, &mut values, out)
            },
        )?;
        let spec = &self.spec;
        Ok(Tensor {
            name: spec.name.clone(),
            dtype: spec.dtype,
            shape: spec.shape.clone(),
            bytes: Bytes::from(bytes),
        })
    }

    /// Folds blocks of rows on all threads, and passes the bytes of each with their offset to `write`.
    fn each_block(&self, write: impl Fn(usize, &[u8]) -> Result<()> + Sync) -> Result<()> {
        let (rows, columns) = self.rows_and_columns();
        if columns == 0 {
            return Ok(());
        }
        let rows_each = (BLOCK / columns).max(1);
        (0..rows.div_ceil(rows_each)).into_par_iter().try_for_each_init(
            || (Vec::new(), Vec::new()),
            |(values, bytes), block| {
                cli::check_interrupted()?;
                let range = block * rows_each..rows.min((block + 1) * rows_each);
                values.resize(range.len() * columns, 0.0);
                bytes.resize(range.len() * self.row_size(), 0);
                self.fold_block(range.clone(), values, bytes)?;
                write(range.start * self.row_size(), bytes)
            },
        )
    }

    fn fold_block(&self, rows: Range<usize>, values: &mut [f32], bytes: &mut [u8]) -> Result<()> {
        self.fold(rows.clone(), values)?;
        let Some(index) = cast_from_f32(self.spec.dtype, values, bytes)? else { return Ok(()) };
        let (_, columns) = self.rows_and_columns();
        let (row, column) = (rows.start + index / columns, index % columns);
        let name = &self.spec.name;
        if values[index].is_finite() {
            bail!(
                Malformed,
                "tensor {name}: {} at [{row}, {column}] is too large for {}",
                values[index],
                self.spec.dtype
            );
        }
        Err(error!("tensor {name} becomes {} at [{row}, {column}]", values[index])
            .hint("the adapter diverged in training, or the base is damaged; merge an earlier checkpoint"))
    }
}
