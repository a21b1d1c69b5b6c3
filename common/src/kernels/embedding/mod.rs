//! Token embeddings: rows of a frozen table, in training with noise. They have no backward, because
//! nothing below them trains. Beside a GPU the table stays on the host, a gigabyte for a few rows of a
//! pass, unless memory is left over.

mod noise;

use rayon::prelude::*;

use crate::device::cuda::GpuTensor;
use crate::device::{Device, Tensor};
use crate::kernels::linear::{self, Linear, Weight, WeightSpec};
use crate::{Result, error};

pub use noise::Noise;

/// Rows that pass through page-locked memory at a time on their way to a GPU.
const STAGED_ROWS: usize = 1 << 16;

/// The table of token embeddings, [V, C].
pub struct Embedding {
    table: Weight,
    /// What rows are multiplied with.
    scale: f32,
    /// The table on a GPU, where memory was left for it.
    on_gpu: Option<GpuTensor>,
}

impl Embedding {
    /// A table on the host, from which a pass takes its rows, each times `scale`.
    pub fn new(table: Weight, scale: f32) -> Self {
        Self { table, scale, on_gpu: None }
    }

    /// A table that a head shares, and with it its copy on a GPU.
    pub fn tied(table: Weight, scale: f32, head: &Linear) -> Self {
        Self { table, scale, on_gpu: head.dense_on_gpu().cloned() }
    }

    /// The table.
    pub fn table(&self) -> &Weight {
        &self.table
    }

    /// Copies the table to a GPU where that takes no more than `budget` bytes; returns the bytes.
    pub fn keep_on_gpu(&mut self, budget: u64, device: &Device) -> Result<u64> {
        let bytes = linear::cuda::dense_bytes(self.table.shape());
        match (device, &self.table) {
            (Device::Cuda(gpu), Weight::Dense(table)) if self.on_gpu.is_none() && bytes <= budget => {
                self.on_gpu = Some(linear::cuda::upload(gpu, table)?);
                Ok(bytes)
            }
            _ => Ok(0),
        }
    }
}

/// Bytes that [`Embedding::keep_on_gpu`] takes for a table that no head shares.
pub(crate) fn table_bytes(table: &WeightSpec) -> u64 {
    match table {
        WeightSpec::Dense(shape, _) => linear::cuda::dense_bytes(*shape),
        WeightSpec::Quantized(_) => 0,
    }
}

/// x [T, C]: row `tokens[t]` of the table for each t, times the table's scale, and the noise.
pub fn forward(
    tokens: &[u32],
    embedding: &Embedding,
    noise: Option<&Noise>,
    device: &Device,
) -> Result<Tensor> {
    let (table, scale) = (&embedding.table, embedding.scale);
    let [v, c] = table.shape();
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= v) {
        return Err(error!("embedding: token {token} is outside the vocabulary of {v}")
            .hint("the tokenizer and the model do not belong together"));
    }
    match device {
        Device::Cpu => {
            let mut x = vec![0.0; tokens.len() * c];
            for (row, (x, &token)) in x.chunks_exact_mut(c).zip(tokens).enumerate() {
                table.read_rows(token as usize..token as usize + 1, x)?;
                if scale != 1.0 {
                    x.iter_mut().for_each(|x| *x *= scale);
                }
                if let Some(noise) = noise {
                    noise.add(row, x);
                }
            }
            Tensor::from_vec(x, &[tokens.len(), c])
        }
        Device::Cuda(gpu) => {
            // As transformers has it, the scale is a number of the type that computes.
            let scale = gpu.float16().value(gpu.float16().bits(scale));
            if let (Some(table), None) = (&embedding.on_gpu, noise) {
                let rows = table.gather_rows(tokens)?;
                return Ok(Tensor::Cuda(if scale == 1.0 { rows } else { rows.scale(scale)? }));
            }
            let rows_from = |first: usize, tokens: &[u32]| {
                GpuTensor::from_staging(gpu, &[tokens.len(), c], |x| {
                    let rows = x.par_chunks_exact_mut(c).zip(tokens).enumerate();
                    rows.map(|(row, (x, &token))| {
                        let float16 = gpu.float16();
                        table.read_row_float16(token as usize, float16, x)?;
                        if scale != 1.0 {
                            x.iter_mut().for_each(|bits| *bits = float16.bits(float16.value(*bits) * scale));
                        }
                        if let Some(noise) = noise {
                            noise.add_float16(first + row, gpu.float16(), x);
                        }
                        Ok(())
                    })
                    .collect()
                })
            };
            if tokens.len() <= STAGED_ROWS {
                return rows_from(0, tokens).map(Tensor::Cuda);
            }
            let mut x = GpuTensor::new(gpu, &[tokens.len(), c])?;
            for (index, tokens) in tokens.chunks(STAGED_ROWS).enumerate() {
                let first = index * STAGED_ROWS;
                x.write_rows(first, &rows_from(first, tokens)?)?;
            }
            Ok(Tensor::Cuda(x))
        }
    }
}

#[cfg(test)]
mod tests;
