//! Token embeddings: rows of a frozen table. It has no backward, because nothing below it trains.

use rayon::prelude::*;

use crate::device::cuda::GpuTensor;
use crate::device::{Device, Tensor};
use crate::kernels::linear::Weight;
use crate::{Result, error};

/// x [T, C]: row `tokens[t]` of the table [V, C] for each t.
pub fn forward(tokens: &[u32], table: &Weight, device: &Device) -> Result<Tensor> {
    let [v, c] = table.shape();
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= v) {
        return Err(error!("embedding: token {token} is outside the vocabulary of {v}")
            .hint("the tokenizer and the model do not belong together"));
    }
    match device {
        Device::Cpu => {
            let mut x = vec![0.0; tokens.len() * c];
            for (x, &token) in x.chunks_exact_mut(c).zip(tokens) {
                table.read_rows(token as usize..token as usize + 1, x)?;
            }
            Tensor::from_vec(x, &[tokens.len(), c])
        }
        // The table stays on the host: a gigabyte of GPU memory for a few rows of a pass.
        Device::Cuda(gpu) => {
            let shape = [tokens.len(), c];
            let x = GpuTensor::from_staging(gpu, &shape, |x| {
                let rows = x.par_chunks_exact_mut(c).zip(tokens);
                rows.map(|(x, &token)| table.read_row_bf16(token as usize, x)).collect()
            })?;
            Ok(Tensor::Cuda(x))
        }
    }
}

#[cfg(test)]
mod tests;
