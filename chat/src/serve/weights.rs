//! The weights of the server: one base, and its adapters, which take turns on it.

use std::path::Path;

use common::adapter::Adapter;
use common::cli::Size;
use common::device::Device;
use common::generate::{Limits, PROMPT_PASS};
use common::host_memory::available_memory;
use common::model::{DetachedAdapters, KeyValueCache, Logits, Model};
use common::models::{ModelArguments, Models};
use common::{Context, Result, bail, cli};

/// The bytes of GPU memory that are left alone, for passes, kernels, and what the pool cannot use.
const GPU_MARGIN: u64 = 3 << 29;

/// A base and adapters of it. The frozen weights are there once.
pub(crate) struct Weights {
    model: Model,
    /// Which adapter is on the model.
    adapter: Option<usize>,
    /// The adapters; `None` in the place of the one that is on the model.
    others: Vec<Option<DetachedAdapters>>,
    /// The most tokens whose keys and values have room at a time.
    room: usize,
}

impl Weights {
    /// Loads the base in `directory`, and then each adapter, as `arguments` say. On a GPU, weights that have no room
    /// beside passes and the keys and values of texts are streamed.
    pub(crate) fn load(
        directory: &Path,
        adapters: &[&Path],
        device: &Device,
        arguments: &ModelArguments,
    ) -> Result<Self> {
        let mut models = Models::new(arguments, device.clone()).for_serving(most_read(device));
        models.load(directory)?;
        let Some(mut model) = models.into_model() else { bail!(Bug, "no model is loaded") };
        let mut others = Vec::with_capacity(adapters.len());
        for adapter in adapters {
            let place = || adapter.display().to_string();
            model.set_adapter(&Adapter::load(adapter)?).with_context(place)?;
            others.push(Some(model.detach_adapters()));
        }
        let bytes = room(&mut model, arguments.vram_budget)?;
        let room = (bytes / model.config().cached_per_token(device).max(1)) as usize;
        cli::verbose(format_args!("{} for the keys and values of {room} tokens", Size(bytes)));
        Ok(Self { model, adapter: None, others, room })
    }

    /// Returns the most tokens that a prompt and its answer may have together.
    pub(crate) fn max_tokens(&self) -> usize {
        self.model.config().max_positions
    }

    /// Returns the number of tokens that the model knows.
    pub(crate) fn vocabulary(&self) -> usize {
        self.model.config().vocabulary
    }

    /// Returns the most tokens whose keys and values have room at a time.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// Returns the most tokens of prompts that a turn reads.
    pub(crate) fn most_read(&self) -> usize {
        most_read(self.model.device())
    }

    /// Returns what bounds texts.
    pub(crate) fn limits(&self) -> &dyn Limits {
        self.model.config()
    }

    /// Makes room for `tokens` tokens of a text in all.
    pub(crate) fn reserve(&self, cache: &mut KeyValueCache, tokens: usize) -> Result<()> {
        cache.reserve(tokens, self.model.config(), self.model.device())
    }

    /// Continues texts of one model in one pass, and returns the logits after each; without an adapter the base
    /// continues them.
    pub(crate) fn continue_texts(
        &mut self,
        adapter: Option<usize>,
        texts: &mut [(&[u32], &mut KeyValueCache)],
    ) -> Result<Logits> {
        if let Some(adapter) = adapter {
            self.attach(adapter)?;
        }
        self.model.continue_texts(texts, adapter.is_none())
    }

    /// Puts an adapter on the model.
    fn attach(&mut self, adapter: usize) -> Result<()> {
        if self.adapter == Some(adapter) {
            return Ok(());
        }
        if let Some(last) = self.adapter.take() {
            self.others[last] = Some(self.model.detach_adapters());
        }
        let Some(next) = self.others[adapter].take() else { bail!(Bug, "adapter {adapter} is lost") };
        self.model.attach_adapters(next)?;
        self.adapter = Some(adapter);
        Ok(())
    }
}

/// Returns the most tokens of prompts that a turn reads. A GPU reads several prompts in not much more time than one, and
/// answers that wait for them do not wait long.
fn most_read(device: &Device) -> usize {
    match device {
        Device::Cpu => PROMPT_PASS,
        Device::Cuda(_) => 4 * PROMPT_PASS,
    }
}

/// Returns the bytes that keys and values may take. On a GPU, half of what is left is first spent on weights in 16 bits,
/// because passes of more than a few tokens would dequantize them each time; but not where weights are streamed.
fn room(model: &mut Model, budget: Option<Size>) -> Result<u64> {
    let Device::Cuda(gpu) = model.device().clone() else {
        return Ok(available_memory().map_or(u64::MAX, |available| available / 2));
    };
    let left = || -> Result<u64> {
        let memory = gpu.memory()?;
        let asked = budget.map_or(u64::MAX, |budget| budget.0.saturating_sub(memory.used));
        Ok(memory.free.min(asked).saturating_sub(GPU_MARGIN))
    };
    if !model.is_streamed() {
        let spent = model.cache_dequantized(left()? / 2, false)?;
        cli::verbose(format_args!("{} for weights in 16 bits", Size(spent)));
    }
    left()
}
