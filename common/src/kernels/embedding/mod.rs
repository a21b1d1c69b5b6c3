//! Token embeddings: rows of a frozen table, in training with noise. They have no backward, because
//! nothing below them trains.

mod noise;

use rayon::prelude::*;

use crate::device::cuda::GpuTensor;
use crate::device::{Device, Tensor};
use crate::kernels::linear::Weight;
use crate::{Result, error};

pub use noise::Noise;

/// x [T, C]: row `tokens[t]` of the table [V, C] for each t, and the noise.
pub fn forward(tokens: &[u32], table: &Weight, noise: Option<&Noise>, device: &Device) -> Result<Tensor> {
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
                if let Some(noise) = noise {
                    noise.add(row, x);
                }
            }
            Tensor::from_vec(x, &[tokens.len(), c])
        }
        // The table stays on the host: a gigabyte of GPU memory for a few rows of a pass.
        Device::Cuda(gpu) => {
            let shape = [tokens.len(), c];
            let x = GpuTensor::from_staging(gpu, &shape, |x| {
                let rows = x.par_chunks_exact_mut(c).zip(tokens).enumerate();
                rows.map(|(row, (x, &token))| {
                    table.read_row_bf16(token as usize, x)?;
                    if let Some(noise) = noise {
                        noise.add_bf16(row, x);
                    }
                    Ok(())
                })
                .collect()
            })?;
            Ok(Tensor::Cuda(x))
        }
    }
}

#[cfg(test)]
mod tests;
