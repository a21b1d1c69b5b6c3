//! The forward without a tape: logits of chosen rows, with or without tokens that came before, and losses
//! for evaluation.

use super::block::Block;
use super::cache::Earlier;
use super::memory::slice_of_forward;
use super::pass::Pass;
use super::{Batch, Cache, KeyValueCache, Logits, Loss, Model, PendingLogits};
use crate::device::cuda::Way;
use crate::device::{Device, Tensor, Vector};
use crate::kernels::embedding;
use crate::{Result, error};

impl Model {
    /// Logits [rows.len(), V] of the chosen rows of a batch.
    pub fn logits(&self, batch: &Batch, rows: &[u32], cache: Cache<'_>) -> Result<Vec<f32>> {
        self.begin_logits(batch, rows, cache)?.wait().map(Logits::into_vec)
    }

    /// As [`Model::logits`], without waiting for a GPU, which computes while the host continues.
    pub fn begin_logits(&self, batch: &Batch, rows: &[u32], cache: Cache<'_>) -> Result<PendingLogits> {
        let hidden = self.hidden(batch, cache, self.parameters())?;
        self.head.logits(&hidden.gather_rows(rows)?)
    }

    /// As [`Model::logits`], with the adapters left out.
    pub fn base_logits(&self, batch: &Batch, rows: &[u32], cache: Cache<'_>) -> Result<Vec<f32>> {
        let hidden = self.hidden(batch, cache, None)?;
        self.head.logits(&hidden.gather_rows(rows)?)?.wait().map(Logits::into_vec)
    }

    /// Continues texts in one pass: adds the tokens beside each cache to it, and returns the logits after the last of
    /// them. The adapters are left out where `without_adapters` says so.
    pub fn continue_texts(
        &self,
        texts: &mut [(&[u32], &mut KeyValueCache)],
        without_adapters: bool,
    ) -> Result<Logits> {
        let batch = Batch::continued(texts.iter().map(|(tokens, cache)| (*tokens, cache.len())));
        let mut caches: Vec<&mut KeyValueCache> = texts.iter_mut().map(|(_, cache)| &mut **cache).collect();
        let parameters = if without_adapters { None } else { self.parameters() };
        let hidden = self.hidden(&batch, Cache::Each(&mut caches), parameters)?;
        self.head.logits(&hidden.gather_rows(&batch.last_rows())?)?.wait()
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

    /// The residual stream after the last block, [T, C]. Caches that the pass extends are as they were where it fails.
    fn hidden(&self, batch: &Batch, cache: Cache<'_>, parameters: Option<&Vector>) -> Result<Tensor> {
        let mut earlier = Earlier::from(cache);
        let lens = earlier.lens();
        let result = self.run(batch, &mut earlier, lens.as_deref(), parameters);
        if let Earlier::Each(caches) = earlier {
            for (cache, bounds) in caches.into_iter().zip(batch.starts.windows(2)) {
                match &result {
                    Ok(_) => cache.advance(bounds[1] - bounds[0]),
                    Err(_) => cache.truncate(cache.len()),
                }
            }
        }
        result
    }

    /// As [`Model::hidden`], but for the lengths of the caches. `lens` are those of the caches that are extended.
    fn run(
        &self,
        batch: &Batch,
        earlier: &mut Earlier,
        lens: Option<&[usize]>,
        parameters: Option<&Vector>,
    ) -> Result<Tensor> {
        let mut pass = self.pass(batch, lens, parameters)?;
        if let Device::Cuda(_) = self.device {
            pass.rowwise.slice = slice_of_forward(batch.len());
        }
        if let Earlier::Each(caches) = earlier {
            for (cache, bounds) in caches.iter_mut().zip(batch.starts.windows(2)) {
                cache.reserve(cache.len() + bounds[1] - bounds[0], &self.config, &self.device)?;
            }
        }
        let mut x = self.embed(batch)?;
        for index in 0..self.blocks.len() {
            let forward = |block: &Block| Ok(block.forward(&x, &pass, earlier.in_block(index))?.0);
            x = self.blocks.visit(index, Way::Forward, forward)?;
        }
        Ok(x)
    }

    /// The residual stream before the first block, [T, C].
    pub(super) fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let noise = batch.noise.and_then(|noise| noise.of_embeddings(&batch.starts, self.config.width));
        let x = embedding::forward(&batch.tokens, &self.embedding, noise.as_ref(), &self.device)?;
        if self.config.input_scale == 1.0 { Ok(x) } else { x.scale(self.config.input_scale) }
    }

    /// What the layers of a pass share. Where each sequence continues a cache of its own, `lens` are their lengths.
    pub(super) fn pass<'a>(
        &self,
        batch: &Batch,
        lens: Option<&[usize]>,
        parameters: Option<&'a Vector>,
    ) -> Result<Pass<'a>> {
        let longest = batch.positions.iter().max().map_or(0, |last| *last as usize + 1);
        if longest > self.config.max_positions {
            return Err(error!(
                TooLong,
                "a sequence of {longest} tokens exceeds the model's {}",
                self.config.bound()
            ));
        }
        if batch.is_empty() {
            return Err(error!(Bug, "an empty batch"));
        }
        if let Some(lens) = lens {
            let begins = batch.starts.windows(2).map(|bounds| batch.positions.get(bounds[0]));
            let is_continued = |(position, len): (Option<&u32>, &usize)| {
                position.is_some_and(|position| *position as usize == *len)
            };
            if batch.starts.len() != lens.len() + 1 || !begins.zip(lens).all(is_continued) {
                return Err(error!(Bug, "sequences that continue caches of {lens:?} tokens expected"));
            }
        }
        Pass::new(&self.config, batch, lens, parameters, &self.device)
    }
}
