//! The whole decoder: embedding, blocks, head; forward and backward.

use std::path::Path;

use super::block::{Block, Kept, Pass};
use super::head::Head;
use super::{AdapterOptions, Adapters, Batch, Cache, Config};
use crate::adapter::{Adapter, AdapterConfig};
use crate::device::{Device, Tensor, Vector};
use crate::kernels::attention::Past;
use crate::kernels::embedding::{self, Embedding};
use crate::kernels::linear::{Linear, Weight};
use crate::nf4::Scheme;
use crate::{Result, error};

/// A decoder with frozen weights and, where it has any, adapters.
pub struct Model {
    pub(super) config: Config,
    pub(super) device: Device,
    pub(super) embedding: Embedding,
    pub(super) blocks: Vec<Block>,
    pub(super) head: Head,
    pub(super) adapters: Adapters,
}

/// The loss of a pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// Summed over the supervised tokens.
    pub sum: f64,
    /// Supervised tokens.
    pub tokens: usize,
}

impl Loss {
    /// The mean over supervised tokens.
    pub fn mean(self) -> f64 {
        self.sum / self.tokens as f64
    }
}

impl Model {
    /// Loads a model directory (bf16, f16, f32 or NF4), or a PEFT adapter with the base it names.
    pub fn load(directory: &Path, device: &Device) -> Result<Self> {
        super::load::load(directory, None, device)
    }

    /// Loads a model directory and quantizes the linear layers of its blocks where they are not in
    /// 4 bits already.
    pub fn load_quantized(directory: &Path, scheme: Scheme, device: &Device) -> Result<Self> {
        super::load::load_base(directory, Some(scheme), device)
    }

    /// Loads an adapter on another base than the one it names.
    pub fn load_with_base(adapter: &Path, base: &Path, device: &Device) -> Result<Self> {
        super::load::load(adapter, Some(base), device)
    }

    /// What config.json says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device that computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The trainable parameters; empty without adapters.
    pub fn adapters(&self) -> &Adapters {
        &self.adapters
    }

    /// Changes the values of the trainable parameters, as an optimizer's step does, and refreshes the copies that a
    /// GPU multiplies with.
    pub fn update_parameters<T>(&mut self, update: impl FnOnce(&mut Vector) -> Result<T>) -> Result<T> {
        let updated = update(&mut self.adapters.values)?;
        self.refresh_adapters()?;
        Ok(updated)
    }

    /// Attaches new adapters, in the place of any there were.
    pub fn add_adapters(&mut self, options: &AdapterOptions) -> Result<()> {
        let linears = self.blocks.iter_mut().flat_map(Block::linears_mut).collect();
        self.adapters = Adapters::new(linears, options, &self.device)?;
        self.refresh_adapters()
    }

    /// Attaches the adapters of a PEFT directory, in the place of any there were.
    pub fn set_adapter(&mut self, adapter: &Adapter) -> Result<()> {
        let linears = self.blocks.iter_mut().flat_map(Block::linears_mut).collect();
        self.adapters = Adapters::from_adapter(linears, adapter, &self.device)?;
        self.refresh_adapters()
    }

    fn refresh_adapters(&mut self) -> Result<()> {
        let mut linears = self.blocks.iter_mut().flat_map(Block::linears_mut);
        linears.try_for_each(|linear| linear.refresh_adapters(&self.adapters.values))
    }

    /// On a GPU, spends up to `budget` bytes that nothing else will need on speed, and returns how many:
    /// for the embedding table where passes read it there (those with noise do not), and for quantized
    /// weights in bf16, which saves widening them in each pass.
    pub fn spend_memory(&mut self, budget: u64, reads_table: bool) -> Result<u64> {
        let mut kept = 0;
        if reads_table {
            kept += self.embedding.keep_on_gpu(budget, &self.device)?;
        }
        for linear in self.blocks.iter_mut().flat_map(Block::linears_mut) {
            kept += linear.cache_dequantized(budget - kept, &self.device)?;
        }
        Ok(kept)
    }

    /// The adapters as PEFT writes them.
    pub fn adapter(&self, config: AdapterConfig) -> Result<Adapter> {
        self.adapters.to_adapter(self.linears(), config)
    }

    /// Every linear layer of the blocks.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(Block::linears)
    }

    /// Number of all parameters, frozen and trainable.
    pub fn parameter_count(&self) -> usize {
        let elements = |weight: &Weight| weight.shape().iter().product::<usize>();
        let linears = self
            .linears()
            .flat_map(Linear::projections)
            .map(|p| elements(&p.weight) + p.bias.as_ref().map_or(0, Vec::len));
        let norms = self.blocks.iter().map(|block| {
            let heads = block.head_norms.as_ref().map_or(0, |_| 2 * self.config.heads.size);
            block.input_norm.len() + block.post_norm.len() + heads
        });
        let head = if self.config.tied_head {
            0
        } else {
            self.head.projection.inputs() * self.head.projection.outputs()
        };
        elements(self.embedding.table())
            + linears.sum::<usize>()
            + norms.sum::<usize>()
            + self.head.norm.len()
            + head
            + self.adapters.values.len()
    }

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
            return Ok(Loss { sum: 0.0, tokens: 0 });
        }
        let hidden = self.hidden(batch, Cache::None, self.parameters())?;
        let losses = self.head.loss(&hidden.gather_rows(&batch.supervised)?, &batch.targets)?;
        Ok(Loss { sum: losses.sum()?, tokens: batch.targets.len() })
    }

    /// The loss of a batch; adds the gradients of `scale` times its sum to `gradients`, which has
    /// the layout of [`Adapters::values`]. The first `recomputed` blocks keep only their inputs and run
    /// forward again in the backward.
    pub fn loss_and_gradients(
        &self,
        batch: &Batch,
        scale: f32,
        recomputed: usize,
        gradients: &mut Vector,
    ) -> Result<Loss> {
        if self.adapters.values.is_empty() || gradients.len() != self.adapters.values.len() {
            return Err(error!(
                Bug,
                "{} gradients expected, found {}",
                self.adapters.values.len(),
                gradients.len()
            ));
        }
        if batch.targets.is_empty() {
            return Ok(Loss { sum: 0.0, tokens: 0 });
        }
        let pass = self.pass(batch, 0, self.parameters())?;
        // No gradient is needed below the first adapter.
        let first = self
            .blocks
            .iter()
            .position(|block| block.linears().iter().any(|linear| linear.has_adapter()))
            .unwrap_or(self.blocks.len());
        let mut x = self.embed(batch)?;
        let mut inputs = Vec::new();
        let mut kept: Vec<Option<Kept>> = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            let (y, saved) = block.forward(&x, &pass, None)?;
            if index >= first {
                inputs.push(x);
                kept.push((index >= recomputed).then_some(saved));
            }
            x = y;
        }
        let rows = x.gather_rows(&batch.supervised)?;
        let (losses, drows) = self.head.loss_and_gradient(&rows, &batch.targets, scale)?;
        let mut dx = drows.scatter_rows(&batch.supervised, batch.len())?;
        for index in (first..self.blocks.len()).rev() {
            let block = &self.blocks[index];
            let (Some(x), Some(saved)) = (inputs.pop(), kept.pop()) else { break };
            let saved = match saved {
                Some(saved) => saved,
                None => block.recompute(&x, &pass, None)?,
            };
            match block.backward(&dx, &x, saved, &pass, gradients, index > first)? {
                Some(below) => dx = below,
                None => break,
            }
        }
        // Asked for last: a GPU computes all of the pass before it answers.
        Ok(Loss { sum: losses.sum()?, tokens: batch.targets.len() })
    }

    /// The residual stream before the first block, [T, C].
    fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let noise = batch.noise.and_then(|noise| noise.of_embeddings(&batch.starts, self.config.width));
        embedding::forward(&batch.tokens, &self.embedding, noise.as_ref(), &self.device)
    }

    fn parameters(&self) -> Option<&Vector> {
        (!self.adapters.values.is_empty()).then_some(&self.adapters.values)
    }

    /// The residual stream behind the last block, [T, C].
    fn hidden(&self, batch: &Batch, mut cache: Cache<'_>, parameters: Option<&Vector>) -> Result<Tensor> {
        let pass = self.pass(batch, cache.len(), parameters)?;
        if matches!(cache, Cache::Extend(_)) && batch.starts.len() != 2 {
            return Err(error!(Bug, "a cache is extended by one sequence at a time"));
        }
        let mut x = self.embed(batch)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let (y, kept) = block.forward(&x, &pass, cache.past(index))?;
            if let Cache::Extend(cache) = &mut cache {
                match cache.layers.get_mut(index) {
                    Some(past) => past.append(kept.qkv(), self.config.heads)?,
                    None => cache.layers.push(Past::new(kept.qkv(), self.config.heads)?),
                }
            }
            x = y;
        }
        if let Cache::Extend(cache) = cache {
            cache.len += batch.len();
        }
        Ok(x)
    }

    fn pass<'a>(&self, batch: &Batch, past: usize, parameters: Option<&'a Vector>) -> Result<Pass<'a>> {
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
