//! LLaMA-Factory's infer.yaml.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::generate::Overrides;
use common::{Context, Error, Result, cli, files, hub_cache};
use serde::Deserialize;
use serde_json::Value;

/// The keys of the file that `chat` obeys (LLaMA-Factory's `hparams/model_args.py`, `generating_args.py`).
#[derive(Debug, Deserialize)]
pub(crate) struct Infer {
    /// The directory or the hub's name of the model, or of the base of the adapter.
    pub model_name_or_path: Option<PathBuf>,
    /// The directory of the adapter.
    pub adapter_name_or_path: Option<PathBuf>,
    /// The name of a chat template in LLaMA-Factory.
    pub template: Option<String>,
    /// The system message.
    pub default_system: Option<String>,
    /// Whether a reasoning model thinks before it answers.
    pub enable_thinking: Option<bool>,
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    repetition_penalty: Option<f32>,
    max_new_tokens: Option<u32>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

/// Keys that change nothing, because a model is loaded as it is stored.
const WITHOUT_EFFECT: [&str; 8] = [
    "finetuning_type",
    "infer_backend",
    "infer_dtype",
    "quantization_bit",
    "quantization_method",
    "skip_special_tokens",
    "stage",
    "trust_remote_code",
];

impl Infer {
    /// Reads the file. Paths in it are relative to the current directory, as in LLaMA-Factory.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = files::read_text(path, files::CONFIG)?;
        let infer: Self = serde_saphyr::from_str(&text)
            .map_err(Error::malformed)
            .with_context(|| format!("{} is not an infer.yaml", path.display()))?;
        for key in infer.other.keys() {
            match WITHOUT_EFFECT.contains(&key.as_str()) {
                true => cli::verbose(format_args!("{key} has no effect: a model is loaded as it is stored")),
                false => cli::warn(format_args!("{}: {key} is not used", path.display())),
            }
        }
        Ok(infer)
    }

    /// Returns what to load, and the base where the file names an adapter and its base.
    pub(crate) fn paths(&self) -> Result<(PathBuf, Option<PathBuf>)> {
        match (&self.adapter_name_or_path, &self.model_name_or_path) {
            (Some(adapter), base) => Ok((adapter.clone(), base.clone())),
            (None, Some(model)) => Ok((hub_cache::resolve(model), None)),
            (None, None) => {
                Err(Error::usage("the file names no model").hint("add a line with model_name_or_path"))
            }
        }
    }

    /// Completes what the options say about generation with what the file says. An option that concerns
    /// sampling overrules `do_sample: false`.
    pub(crate) fn complete(&self, options: Overrides) -> Overrides {
        let do_sample = if options.asks_for_sampling() { Some(true) } else { self.do_sample };
        options.or(Overrides {
            do_sample,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            repetition_penalty: self.repetition_penalty,
            max_new_tokens: self.max_new_tokens.map(|tokens| tokens as usize),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Infer> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("infer.yaml");
        fs_err::write(&path, text).unwrap();
        Infer::read(&path)
    }

    #[test]
    fn the_file_says_what_and_how_and_options_overrule_it() {
        let infer = read(
            "model_name_or_path: model/Qwen\nadapter_name_or_path: out\ntemplate: qwen\ndo_sample: false\n\
             temperature: 0.5\nmax_new_tokens: 7\nquantization_bit: 4\n",
        )
        .unwrap();
        assert_eq!(infer.paths().unwrap(), ("out".into(), Some("model/Qwen".into())));
        let options = infer.complete(Overrides::default());
        assert_eq!((options.do_sample, options.max_new_tokens), (Some(false), Some(7)));
        let options = infer.complete(Overrides { top_p: Some(0.9), ..Overrides::default() });
        assert_eq!((options.do_sample, options.temperature), (Some(true), Some(0.5)));
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        assert!(read("template: [").is_err());
        assert!(read("template: qwen\n").unwrap().paths().is_err());
    }
}
