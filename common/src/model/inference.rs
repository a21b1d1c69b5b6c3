//! The forward without a tape: logits of chosen rows, with or without tokens that came before, and losses
//! for evaluation.

use super::block::Block;
use super::memory::slice_of_forward;
use super::pass::Pass;
use super::{Batch, Cache, Loss, Model};
use crate::device::cuda::Way;
use crate::device::{Device, Tensor, Vector};
use crate::kernels::embedding;
use crate::{Result, error};

impl Model {
    /// Logits [rows.len(), V] of the chosen rows of a batch.
    pub fn logits(&self, batch: &Batch, rows: &[u32], cache: Cache<'_>) -> Result<Vec<f32>> {
        let hidden = self.hidden(batch, cache, self.parameters())?;
        self.head.logits(&hidden.gather_rows(rows)?)
    }

    /// As [`Model::logits`], with the adapters left out.
    pub fn base_logits(&self, batch: &Batch, rows: &[u32], cache: Cache<'_>) -> Result<Vec<f32>> {
        let hidden = self.hidden(batch, cache, None)?;
        self.head.logits(&hidden.gather_rows(rows)?)
    }

    /// The loss of a batch, for evaluation.
    pub fn loss(&self, batch: &Batch) -> Result<Loss> {
        if batch.targets.is_empty() {
            self.accompany_loss()?;
            return Ok(Loss { sum: 0.0, tokens: 0 });
        }
        let hidden = self.hidden(batch, Cache::None, self.parameters())?;
        let losses = self.head.cross_entropy(&hidden.gather_rows(&batch.supervised)?, &batch.targets)?;
        Ok(Loss { sum: losses.sum()?, tokens: batch.targets.len() })
    }

    /// Takes part in a [`Model::loss`] of other ranks, which need this rank's parts of sharded blocks.
    pub fn accompany_loss(&self) -> Result<()> {
        self.blocks.accompany(0..self.blocks.len(), Way::Forward)
    }

    /// The residual stream after the last block, [T, C].
    fn hidden(&self, batch: &Batch, mut cache: Cache<'_>, parameters: Option<&Vector>) -> Result<Tensor> {
        let mut pass = self.pass(batch, cache.len(), parameters)?;
        if let Device::Cuda(_) = self.device {
            pass.rowwise.slice = slice_of_forward(batch.len());
        }
        if matches!(cache, Cache::Extend(_)) && batch.starts.len() != 2 {
            return Err(error!(Bug, "a cache is extended by one sequence at a time"));
        }
        let mut x = self.embed(batch)?;
        for index in 0..self.blocks.len() {
            let forward = |block: &Block| {
                let (y, kept) = block.forward(&x, &pass, cache.past(index))?;
                if let Cache::Extend(cache) = &mut cache {
                    let begun = block.remember(&kept, cache.layers.get_mut(index))?;
                    cache.layers.extend(begun);
                }
                Ok(y)
            };
            x = self.blocks.visit(index, Way::Forward, forward)?;
        }
        if let Cache::Extend(cache) = cache {
            cache.len += batch.len();
        }
        Ok(x)
    }

    /// The residual stream before the first block, [T, C].
    pub(super) fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let noise = batch.noise.and_then(|noise| noise.of_embeddings(&batch.starts, self.config.width));
        let x = embedding::forward(&batch.tokens, &self.embedding, noise.as_ref(), &self.device)?;
        if self.config.input_scale == 1.0 { Ok(x) } else { x.scale(self.config.input_scale) }
    }

    /// What the layers of a pass share, after `past` tokens that came before every sequence.
    pub(super) fn pass<'a>(
        &self,
        batch: &Batch,
        past: usize,
        parameters: Option<&'a Vector>,
    ) -> Result<Pass<'a>> {
        let longest = batch.starts.windows(2).map(|bounds| bounds[1] - bounds[0]).max().unwrap_or(0);
        if longest + past > self.config.max_positions {
            return Err(error!(
                TooLong,
                "a sequence of {} tokens exceeds the model's {}",
                longest + past,
                self.config.bound()
            ));
        }
        if batch.is_empty() {
            return Err(error!(Bug, "an empty batch"));
        }
        Pass::new(&self.config, batch, parameters, &self.device)
    }
}
