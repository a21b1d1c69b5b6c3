//! The models that a tool is called with: the options that say how they are loaded, and loading several
//! adapters of one base without loading the base again.

use std::path::{Path, PathBuf};

use crate::adapter::Adapter;
use crate::device::{Device, DeviceChoice};
use crate::error::Kind;
use crate::model::{Config, Model, base_of_adapter, is_adapter};
use crate::text::{ChatTemplate, TextFiles, Tokenizer};
use crate::{Context, Result, cli, hub_cache, llama_cpp};
use clap::Args;

/// Returns what to do about an error of a kind, in terms of [`ModelArguments`].
pub fn hint(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Mismatch => {
            Some("check that these files were made for each other; --base names an adapter's base")
        }
        Kind::OutOfMemory => Some(
            "other programs may hold memory (nvidia-smi shows a GPU's); --device cpu computes without a GPU",
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
        let base = self.base_of(directory)?;
        Config::read(base.as_deref().unwrap_or(directory)).map(drop)
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
    /// Whether passes are long, so that GPU memory is well spent on weights that are kept dequantized.
    scores: bool,
    /// The last model, or the base of the last adapter with that adapter on it.
    base: Option<(PathBuf, Model)>,
}

impl<'a> Models<'a> {
    /// Models that are loaded as `arguments` say, onto `device`.
    pub fn new(arguments: &'a ModelArguments, device: Device) -> Self {
        Self { arguments, device, scores: false, base: None }
    }

    /// Leaves half of the free GPU memory to passes of many tokens; the other half may keep dequantized
    /// weights.
    pub fn for_scoring(self) -> Self {
        Self { scores: true, ..self }
    }

    /// Returns the device that computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Loads the model or the adapter in `directory`, in the place of the one before.
    pub fn load(&mut self, directory: &Path) -> Result<&Model> {
        let base = self.arguments.base_of(directory)?.unwrap_or_else(|| directory.to_path_buf());
        let base = fs_err::canonicalize(base).hint("--base names the directory of an adapter's base")?;
        let kept = self.base.take().filter(|(kept, _)| *kept == base && is_adapter(directory));
        let (base, mut model) = match kept {
            Some(kept) => kept,
            None => {
                let mut model = Model::load(&base, &self.device)?;
                model.config().note_unused(&base);
                if let (Device::Cuda(gpu), true) = (&self.device, self.scores) {
                    model.cache_dequantized(gpu.memory()?.free / 2, true)?;
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
}
