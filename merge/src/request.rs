//! The request of a merge, from the command line and a LLaMA-Factory file, checked.

use std::path::{Path, PathBuf};

use common::adapter::{Adapter, AdapterConfig, find_base};
use common::cli;
use common::model::is_adapter;
use common::{Error, Result};

use crate::Arguments;
use crate::export::Export;
use crate::gguf::Quantization;

/// The request of one merge.
#[derive(Debug)]
pub(crate) struct Request {
    /// The directories of the adapters: at least one, except for a GGUF file of a model as it is.
    pub adapters: Vec<PathBuf>,
    /// The export.yaml that named them, if one did.
    pub file: Option<PathBuf>,
    /// The factor of each adapter.
    pub weights: Vec<f32>,
    /// The model to fold into.
    pub base: PathBuf,
    /// The directory or the GGUF file to make.
    pub output: PathBuf,
    /// The content of the GGUF file, if the result is one.
    pub gguf: Option<Content>,
    /// The most bytes of a weight file; a larger tensor has a file of its own.
    pub shard_size: u64,
    /// Whether the merged weights are quantized again (`--requantize`).
    pub requantize: bool,
    /// Whether a sample of rows is checked (`--verify`).
    pub verify: bool,
    /// Whether an existing result is replaced (`--force`).
    pub force: bool,
}

/// The content of a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// The model with its adapters, in this type or in 16 bits.
    Model(Option<Quantization>),
    /// The adapter alone.
    Adapter,
}

const DEFAULT_SHARD_SIZE: u64 = 5_000_000_000;

impl Request {
    /// Combines the paths, the options and an optional LLaMA-Factory file. Options have precedence.
    pub(crate) fn new(paths: Vec<PathBuf>, arguments: Arguments) -> Result<Self> {
        let file = paths.iter().find(|path| cli::is_yaml(path)).cloned();
        let export = match &paths[..] {
            [path] if cli::is_yaml(path) => Export::read(path)?,
            _ => Export { adapters: paths, ..Export::default() },
        };
        let gguf = content(&arguments, export.output.as_deref())?;
        let Some(first) = export.adapters.first().cloned() else {
            return Err(Error::usage("no adapter given").hint("name an adapter's directory"));
        };
        if let Some(yaml) = export.adapters.iter().find(|path| cli::is_yaml(path)) {
            return Err(Error::usage(format!("{} has to be the only input", yaml.display())));
        }
        // A GGUF file is also made of a model without an adapter.
        let is_model =
            export.adapters.len() == 1 && matches!(gguf, Some(Content::Model(_))) && !is_adapter(&first);
        let adapters = if is_model { Vec::new() } else { export.adapters };
        let weights = match arguments.weights.len() {
            0 => vec![1.0; adapters.len()],
            count if count == adapters.len() => arguments.weights,
            count => {
                let adapters = adapters.len();
                return Err(Error::usage(format!("--weights has {count} numbers for {adapters} adapters")));
            }
        };
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            return Err(Error::usage(format!("--weights: {weight} is not a finite number")));
        }
        let base = match arguments.base {
            Some(base) => common::hub_cache::resolve(&base),
            None if is_model => first.clone(),
            None => {
                let mut config = AdapterConfig::read(&first)?;
                if let Some(model) = export.model {
                    config.base_model_name_or_path = Some(model);
                }
                find_base(&first, &config)?
            }
        };
        let output = match arguments.common.output.or(export.output) {
            Some(output) => output,
            None => default_output(&first, gguf)?,
        };
        Ok(Self {
            adapters,
            file,
            gguf,
            weights,
            base,
            output,
            shard_size: arguments
                .shard_size
                .map(|size| size.0)
                .or(export.shard_size)
                .unwrap_or(DEFAULT_SHARD_SIZE),
            requantize: arguments.requantize,
            verify: arguments.verify,
            force: arguments.common.force,
        })
    }

    /// Returns the paths of everything that the result is made from.
    pub(crate) fn inputs(&self) -> Vec<PathBuf> {
        self.adapters.iter().chain(&self.file).chain([&self.base]).cloned().collect()
    }

    /// Reads the adapters, in their order.
    pub(crate) fn load_adapters(&self) -> Result<Vec<Adapter>> {
        self.adapters.iter().map(|path| Adapter::load(path)).collect()
    }

    /// Warns where the adapters were trained on different bases.
    pub(crate) fn warn_of_other_bases(&self) -> Result<()> {
        let mut names = Vec::new();
        for adapter in &self.adapters {
            names.push(AdapterConfig::read(adapter)?.base_model_name_or_path);
        }
        if let Some(other) = names.iter().position(|name| *name != names[0]) {
            cli::warn(format_args!(
                "{} was trained on {}, {} on {}",
                self.adapters[0].display(),
                names[0].as_deref().unwrap_or("an unnamed base"),
                self.adapters[other].display(),
                names[other].as_deref().unwrap_or("an unnamed base"),
            ));
        }
        Ok(())
    }
}

/// What the result is to hold, where it is a GGUF file: because its name ends in `.gguf`, or an option says so.
fn content(arguments: &Arguments, exported: Option<&Path>) -> Result<Option<Content>> {
    let output = arguments.common.output.as_deref().or(exported);
    let is_named = output.is_some_and(cli::is_gguf);
    let option = match (arguments.adapter_gguf, arguments.quantize) {
        (true, _) => "--adapter-gguf",
        (false, Some(_)) => "--quantize",
        (false, None) if is_named => "-o NAME.gguf",
        (false, None) => return Ok(None),
    };
    if let Some(output) = output.filter(|_| !is_named) {
        return Err(Error::usage(format!(
            "{option} makes a GGUF file, and {} does not end in .gguf",
            output.display()
        ))
        .hint("name the file with -o NAME.gguf; the tool `quantize` makes NF4 directories"));
    }
    let others = [
        ("--requantize", arguments.requantize),
        ("--shard-size", arguments.shard_size.is_some()),
        ("--verify", arguments.verify),
    ];
    if let Some((other, _)) = others.iter().find(|(_, is_set)| *is_set) {
        return Err(Error::usage(format!("{option} makes a GGUF file, for which there is no {other}"))
            .hint("leave one of the two out"));
    }
    Ok(Some(match arguments.adapter_gguf {
        true => Content::Adapter,
        false => Content::Model(arguments.quantize),
    }))
}

/// The result where none is named: `./NAME-merged`, with the name of the adapter or model, or `./NAME.gguf`.
fn default_output(input: &Path, gguf: Option<Content>) -> Result<PathBuf> {
    let directory = fs_err::canonicalize(input)?;
    match (directory.file_name().and_then(|name| name.to_str()), gguf) {
        (Some(name), None) => Ok(PathBuf::from(format!("{name}-merged"))),
        (Some(name), Some(_)) => Ok(PathBuf::from(format!("{name}.gguf"))),
        (None, _) => Err(Error::usage("the adapter's directory has no name").hint("name the result with -o")),
    }
}
