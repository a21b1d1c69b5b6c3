//! The whole decoder: embedding, blocks, head, and the adapters beside them. How it is
//! loaded is in [`super::load`], how it computes in [`super::inference`] and [`super::tape`].

use super::block::Block;
use super::blocks::Blocks;
use super::head::Head;
use super::{AdapterSettings, Adapters, Config, Stack};
use crate::Result;
use crate::adapter::{Adapter, AdapterConfig};
use crate::device::{Device, Vector};
use crate::kernels::embedding::Embedding;

/// A decoder with frozen weights and, where it has any, adapters.
///
/// ```
/// use std::path::Path;
///
/// use common::device::Device;
/// use common::model::{Batch, Cache, Model};
///
/// let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/qwen2");
/// let model = Model::load(&directory, &Device::Cpu)?;
/// let prompt = [3, 1, 4, 1, 5];
/// let last_row = prompt.len() as u32 - 1;
/// let logits = model.logits(&Batch::prompt(&prompt, 0), &[last_row], Cache::None)?;
/// assert_eq!(logits.len(), model.config().vocabulary, "one logit for each token that may be next");
/// assert!(logits.iter().all(|logit| logit.is_finite()));
/// # Ok::<(), common::Error>(())
/// ```
pub struct Model {
    pub(super) config: Config,
    pub(super) device: Device,
    pub(super) embedding: Embedding,
    pub(super) blocks: Blocks,
    pub(super) head: Head,
    pub(super) adapters: Adapters,
}

impl Model {
    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes the balance of experts count this much in the loss of training ([`Config::router_loss`]).
    pub fn set_router_loss(&mut self, coefficient: f32) {
        self.config.router_loss = Some(coefficient);
    }

    /// The device that computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether any weights are streamed to a GPU that has no room for them.
    pub fn is_streamed(&self) -> bool {
        self.blocks.are_streamed()
    }

    /// Whether ranks share the weights of blocks. Then all ranks run the same number of passes of each kind, in the
    /// same order: a rank that has none accompanies those of the others ([`Model::accompany_training`],
    /// [`Model::accompany_loss`]).
    pub fn is_sharded(&self) -> bool {
        self.blocks.are_sharded()
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
    pub fn add_adapters(&mut self, options: &AdapterSettings) -> Result<()> {
        let stacks = self.blocks.iter_mut().flat_map(Block::stacks_mut).collect();
        self.adapters = Adapters::new(stacks, options, &self.device)?;
        self.refresh_adapters()
    }

    /// Attaches the adapters of a PEFT directory, in the place of any there were.
    pub fn set_adapter(&mut self, adapter: &Adapter) -> Result<()> {
        let stacks = self.blocks.iter_mut().flat_map(Block::stacks_mut).collect();
        self.adapters = Adapters::from_adapter(stacks, adapter, &self.device)?;
        self.refresh_adapters()
    }

    fn refresh_adapters(&mut self) -> Result<()> {
        let mut stacks = self.blocks.iter_mut().flat_map(Block::stacks_mut);
        stacks.try_for_each(|mut stack| stack.refresh_adapters(&self.adapters.values))
    }

    /// On a GPU, keeps what each pass would copy or dequantize again, in up to `budget` bytes that nothing else
    /// will need, and returns how many it took: the embedding table where passes read it there (those with
    /// noise do not), and quantized weights in 16 bits.
    pub fn cache_dequantized(&mut self, budget: u64, reads_table: bool) -> Result<u64> {
        let mut kept = 0;
        if reads_table {
            kept += self.embedding.keep_on_gpu(budget, &self.device)?;
        }
        for mut stack in self.blocks.iter_mut().flat_map(Block::stacks_mut) {
            kept += stack.cache_dequantized(budget - kept, &self.device)?;
        }
        Ok(kept)
    }

    /// The adapters as PEFT writes them, named as it finds them in the whole model, of which the text model may be a
    /// part.
    pub fn adapter(&self, mut config: AdapterConfig) -> Result<Adapter> {
        config.is_composite = self.config.is_composite;
        self.adapters.to_adapter(self.stacks(), config)
    }

    /// Every stack of linear layers of the blocks that can have adapters.
    pub fn stacks(&self) -> impl Iterator<Item = Stack<'_>> {
        self.blocks.iter().flat_map(Block::stacks)
    }

    /// Number of all parameters, frozen and trainable.
    pub fn parameter_count(&self) -> usize {
        self.config.parameter_count() + self.adapters.values.len()
    }

    /// The values of the adapters, where there are any.
    pub(super) fn parameters(&self) -> Option<&Vector> {
        (!self.adapters.values.is_empty()).then_some(&self.adapters.values)
    }
}
