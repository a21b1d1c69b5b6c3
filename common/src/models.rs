//! The models that a tool is called with: the options that say how they are loaded, and loading several
//! adapters of one base without loading the base again.

use std::path::{Path, PathBuf};

use crate::adapter::Adapter;
use crate::cli::Size;
use crate::device::cuda::Gpu;
use crate::device::{Device, DeviceChoice};
use crate::error::Kind;
use crate::generate::PROMPT_PASS;
use crate::model::{Config, InferenceRequest, Model, ModelSpec, Place, base_of_adapter, is_adapter};
use crate::text::{ChatTemplate, TextFiles, Tokenizer};
use crate::world::World;
use crate::{Context, Result, cli, hub_cache, llama_cpp};
use clap::Args;

/// The bytes of GPU memory that are left alone, for the context, kernels, and what the pool cannot use.
const GPU_MARGIN: u64 = 1 << 30;
/// Tokens of a conversation whose keys and values have room beside streamed weights.
const CHAT_TOKENS: usize = 8192;
/// Tokens of all texts of a server whose keys and values have room beside streamed weights.
const SERVED_TOKENS: usize = 2 * CHAT_TOKENS;

/// Returns what to do about an error of a kind, in terms of [`ModelArguments`].
pub fn hint(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Mismatch => {
            Some("check that these files were made for each other; --base names an adapter's base")
        }
        Kind::OutOfMemory => Some(
            "other programs may hold memory (nvidia-smi shows a GPU's); with a smaller --vram-budget more weights are \
             streamed; --device cpu computes without a GPU",
        ),
        _ => None,
    }
}

/// The options that say how models are loaded.
#[derive(Args, Debug, Clone)]
pub struct ModelArguments {
    /// The base of an adapter, where it is not the one that the adapter names
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,

    /// A chat template by its name in LLaMA-Factory, in place of the model's own
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,

    /// GPU memory to plan within, as 24GiB [default: what is free, less 1GiB]; weights without room there are streamed
    #[arg(long, value_name = "SIZE")]
    pub vram_budget: Option<Size>,
}

impl ModelArguments {
    /// Returns the directory of the base of the adapter in `directory`; `None` where a model is there.
    pub fn base_of(&self, directory: &Path) -> Result<Option<PathBuf>> {
        match &self.base {
            _ if !is_adapter(directory) => Ok(None),
            Some(base) => Ok(Some(hub_cache::resolve(base))),
            None => base_of_adapter(directory).map(Some),
        }
    }

    /// Refuses a model, or the base of an adapter, by its config.json, before anything else is done.
    pub fn expect_supported(&self, directory: &Path) -> Result<()> {
        self.config(directory).map(drop)
    }

    /// Reads the config.json of a model, or of the base of an adapter.
    pub fn config(&self, directory: &Path) -> Result<Config> {
        let base = self.base_of(directory)?;
        Config::read(base.as_deref().unwrap_or(directory))
    }

    /// Returns the files that hold the tokenizer, the template and the generation settings of a model; for
    /// each that an adapter lacks, the one of its base.
    pub fn text_files(&self, directory: &Path) -> Result<TextFiles> {
        match llama_cpp::is_file(directory) {
            true => llama_cpp::text_files(directory),
            false => Ok(TextFiles::of(directory, self.base_of(directory)?.as_deref())),
        }
    }

    /// Returns the chat template that `--template` asks for, or the model's own, for a model that answers.
    pub fn chat_template(&self, files: &TextFiles, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let template = match &self.template {
            Some(name) => ChatTemplate::named(name, tokenizer),
            None => ChatTemplate::load(files.template_directory(), tokenizer),
        };
        Ok(template?.without_earlier_thoughts())
    }
}

/// Loads models one after the other.
pub struct Models<'a> {
    arguments: &'a ModelArguments,
    device: Device,
    /// The passes that models have room for beside their weights. Where they are long, GPU memory that is left is well
    /// spent on weights that are kept dequantized.
    passes: Passes,
    /// The number of processes that run on the machine.
    processes: usize,
    /// The last model, or the base of the last adapter with that adapter on it.
    base: Option<(PathBuf, Model)>,
}

/// The passes that a model is loaded for.
#[derive(Debug, Clone, Copy)]
enum Passes {
    /// A conversation, of which a token is computed at a time.
    Chat,
    /// Passes of many tokens.
    Scoring(usize),
    /// Many texts at a time, of which passes have at most so many tokens.
    Serving(usize),
}

impl Passes {
    /// The forwards of a model of `config` beside adapters of `adapters` bytes.
    fn request(self, config: &Config, adapters: u64) -> InferenceRequest {
        match self {
            Self::Chat => {
                let cached = config.max_positions.min(CHAT_TOKENS);
                InferenceRequest { tokens: PROMPT_PASS.min(cached), cached, adapters }
            }
            Self::Scoring(tokens) => InferenceRequest { tokens, cached: tokens, adapters },
            Self::Serving(tokens) => InferenceRequest { tokens, cached: SERVED_TOKENS, adapters },
        }
    }
}

impl<'a> Models<'a> {
    /// Models that are loaded as `arguments` say, onto `device`.
    pub fn new(arguments: &'a ModelArguments, device: Device) -> Self {
        Self { arguments, device, passes: Passes::Chat, processes: 1, base: None }
    }

    /// Leaves half of the free GPU memory to passes of `tokens` tokens; the other half may keep dequantized
    /// weights. `processes` processes do so on the machine.
    pub fn for_scoring(self, tokens: usize, processes: usize) -> Self {
        Self { passes: Passes::Scoring(tokens), processes, ..self }
    }

    /// Leaves room for many texts at a time, and passes of at most `tokens` tokens.
    pub fn for_serving(self, tokens: usize) -> Self {
        Self { passes: Passes::Serving(tokens), ..self }
    }

    /// Returns the device that computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Loads the model or the adapter in `directory`, in the place of the one before.
    pub fn load(&mut self, directory: &Path) -> Result<&Model> {
        self.load_among(directory, &World::alone())
    }

    /// As [`Models::load`], called on all ranks of `world`. The ranks of a machine share one copy of weights that are
    /// streamed.
    pub fn load_among(&mut self, directory: &Path, world: &World) -> Result<&Model> {
        let base = self.arguments.base_of(directory)?.unwrap_or_else(|| directory.to_path_buf());
        let base = fs_err::canonicalize(base).hint("--base names the directory of an adapter's base")?;
        let kept = self.base.take().filter(|(kept, _)| *kept == base && is_adapter(directory));
        // Ranks load together, or not at all.
        let kept = if world.any(kept.is_none())? { None } else { kept };
        let (base, mut model) = match kept {
            Some(kept) => kept,
            None => {
                let mut model = self.load_base(&base, directory, world)?;
                model.config().note_unused(&base);
                if let (Device::Cuda(gpu), Passes::Scoring(_), false) =
                    (&self.device, self.passes, model.is_streamed())
                {
                    let memory = gpu.memory()?;
                    let asked = self.arguments.vram_budget.map(|size| size.0.saturating_sub(memory.used));
                    model.cache_dequantized(asked.unwrap_or(u64::MAX).min(memory.free) / 2, true)?;
                }
                cli::verbose(format_args!("loaded {}", base.display()));
                (base, model)
            }
        };
        if is_adapter(directory) {
            let adapter = Adapter::load(directory)?;
            model.set_adapter(&adapter).with_context(|| directory.display().to_string())?;
        }
        let (_, model) = self.base.insert((base, model));
        Ok(model)
    }

    /// Loads a base for the model or adapter in `directory`. On a GPU, weights that have no room there are streamed.
    fn load_base(&self, base: &Path, directory: &Path, world: &World) -> Result<Model> {
        let Device::Cuda(gpu) = &self.device else { return Model::load(base, &self.device) };
        let place = |spec: &ModelSpec| {
            // An adapter that is damaged or of another model is refused when it is attached.
            let layout = match is_adapter(directory) {
                true => Adapter::load(directory).and_then(|adapter| spec.adapters(&adapter)).ok(),
                false => None,
            };
            let adapters = layout.map_or(0, |layout| spec.adapters_on_gpu(&layout));
            let request = self.passes.request(spec.config(), adapters);
            // Other processes may load at the same time, each by itself.
            let apart = if world.size() > 1 { 1 } else { self.processes };
            let lockable = world.lockable_memory(0)?;
            let on_host = lockable.beside_inputs(0) / apart as u64;
            // The ranks stream the same blocks.
            let places = spec.place_for_inference(&request, world.least(self.budget(gpu)?)?, on_host);
            if places.streamed() > 0 {
                let copies = lockable.copies().filter(|_| places.count(Place::PageLocked) > 0);
                let copies = copies.map(|copies| format!(", which lies there {copies}")).unwrap_or_default();
                cli::note(format_args!("streamed: {}{copies}", places.summary(&spec.block_bytes())));
            }
            Ok(places)
        };
        Model::load_among(base, None, &self.device, place, world)
    }

    /// Returns the model that was loaded last.
    pub fn into_model(self) -> Option<Model> {
        self.base.map(|(_, model)| model)
    }

    /// The bytes of a GPU's memory that a model and its passes may take.
    fn budget(&self, gpu: &Gpu) -> Result<u64> {
        let memory = gpu.memory()?;
        let available = memory.used + memory.free;
        let asked = self.arguments.vram_budget.map(|size| size.0);
        Ok(asked.unwrap_or(available.saturating_sub(GPU_MARGIN)).min(available))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_has_room_for_what_the_model_can_read_up_to_a_bound() {
        let config = |positions: usize| {
            let json = serde_json::json!({"model_type": "llama", "vocab_size": 100, "hidden_size": 64,
                "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
                "intermediate_size": 128, "max_position_embeddings": positions});
            Config::parse(&json).unwrap()
        };
        let request = |passes: Passes, positions| passes.request(&config(positions), 3);
        let expected = |tokens, cached| InferenceRequest { tokens, cached, adapters: 3 };
        assert_eq!(request(Passes::Chat, 131_072), expected(512, 8192));
        assert_eq!(request(Passes::Chat, 2048), expected(512, 2048));
        assert_eq!(request(Passes::Chat, 256), expected(256, 256));
        assert_eq!(request(Passes::Scoring(4096), 2048), expected(4096, 4096));
        assert_eq!(request(Passes::Serving(2048), 4096), expected(2048, 16_384));
    }
}
