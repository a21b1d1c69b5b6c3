//! The request of a merge, from the command line and a LLaMA-Factory file, checked.

use std::path::PathBuf;

use common::adapter::{AdapterConfig, find_base};
use common::cli;
use common::{Error, Result};

use crate::Arguments;
use crate::export::Export;

/// The request of one merge.
#[derive(Debug)]
pub(crate) struct Request {
    /// The directories of the adapters, at least one.
    pub adapters: Vec<PathBuf>,
    /// The export.yaml that named them, if one did.
    pub file: Option<PathBuf>,
    /// The factor of each adapter.
    pub weights: Vec<f32>,
    /// The model to fold into.
    pub base: PathBuf,
    /// The directory to make.
    pub output: PathBuf,
    /// The most bytes of a weight file; a larger tensor has a file of its own.
    pub shard_size: u64,
    /// Whether the merged weights are quantized again (`--requantize`).
    pub requantize: bool,
    /// Whether a sample of rows is checked (`--verify`).
    pub verify: bool,
    /// Whether an existing result is replaced (`--force`).
    pub force: bool,
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
        let Some(first) = export.adapters.first() else {
            return Err(Error::usage("no adapter given").hint("name an adapter's directory"));
        };
        if let Some(yaml) = export.adapters.iter().find(|path| cli::is_yaml(path)) {
            return Err(Error::usage(format!("{} has to be the only input", yaml.display())));
        }
        let weights = match arguments.weights.len() {
            0 => vec![1.0; export.adapters.len()],
            count if count == export.adapters.len() => arguments.weights,
            count => {
                let adapters = export.adapters.len();
                return Err(Error::usage(format!("--weights has {count} numbers for {adapters} adapters")));
            }
        };
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            return Err(Error::usage(format!("--weights: {weight} is not a finite number")));
        }
        let base = match arguments.base {
            Some(base) => common::hub_cache::resolve(&base),
            None => {
                let mut config = AdapterConfig::read(first)?;
                if let Some(model) = export.model {
                    config.base_model_name_or_path = Some(model);
                }
                find_base(first, &config)?
            }
        };
        let output = match arguments.common.output.or(export.output) {
            Some(output) => output,
            None => default_output(first)?,
        };
        Ok(Self {
            adapters: export.adapters,
            file,
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
}

/// The output directory where none is named: `./NAME-merged`, with the name of the adapter.
fn default_output(adapter: &std::path::Path) -> Result<PathBuf> {
    let directory = fs_err::canonicalize(adapter)?;
    match directory.file_name().and_then(|name| name.to_str()) {
        Some(name) => Ok(PathBuf::from(format!("{name}-merged"))),
        None => Err(Error::usage("the adapter's directory has no name").hint("name the result with -o")),
    }
}

/// Warns where the adapters were trained on different bases.
pub(crate) fn warn_of_other_bases(request: &Request) -> Result<()> {
    let mut names = Vec::new();
    for adapter in &request.adapters {
        names.push(AdapterConfig::read(adapter)?.base_model_name_or_path);
    }
    if let Some(other) = names.iter().position(|name| *name != names[0]) {
        cli::warn(format_args!(
            "{} was trained on {}, {} on {}",
            request.adapters[0].display(),
            names[0].as_deref().unwrap_or("an unnamed base"),
            request.adapters[other].display(),
            names[other].as_deref().unwrap_or("an unnamed base"),
        ));
    }
    Ok(())
}
