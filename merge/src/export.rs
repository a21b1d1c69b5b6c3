//! Reads LLaMA-Factory's export.yaml.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Context, Error, Result, cli, error, files};
use serde::Deserialize;
use serde_json::Value;

/// The content of an export.yaml, checked.
#[derive(Debug, Default)]
pub(crate) struct Export {
    /// The adapters (`adapter_name_or_path`).
    pub adapters: Vec<PathBuf>,
    /// The base model (`model_name_or_path`).
    pub model: Option<String>,
    /// The directory of the result (`export_dir`).
    pub output: Option<PathBuf>,
    /// The largest size of a weight file, in bytes (`export_size`, in gigabytes).
    pub shard_size: Option<u64>,
}

/// The keys of the file, with LLaMA-Factory's names and units (`hparams/model_args.py`).
#[derive(Debug, Deserialize)]
struct Yaml {
    model_name_or_path: Option<String>,
    adapter_name_or_path: Option<Adapters>,
    export_dir: Option<PathBuf>,
    /// The largest size of a weight file, in gigabytes.
    export_size: Option<f64>,
    #[serde(default)]
    export_legacy_format: bool,
    export_quantization_bit: Option<Value>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

/// The paths of adapters: one, several separated by commas, or a list.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Adapters {
    Text(String),
    List(Vec<String>),
}

/// Keys without effect here: the template is that of the model, and merging is done on the CPU.
const WITHOUT_EFFECT: [&str; 6] =
    ["template", "export_device", "finetuning_type", "trust_remote_code", "stage", "infer_dtype"];

impl Export {
    /// Reads an export.yaml. Paths are relative to the current directory, as in LLaMA-Factory.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = files::read_text(path, files::CONFIG)?;
        let yaml: Yaml = serde_saphyr::from_str(&text)
            .map_err(Error::malformed)
            .with_context(|| format!("{} is not an export.yaml", path.display()))?;
        yaml.check().with_context(|| path.display().to_string())
    }
}

impl Yaml {
    fn check(self) -> Result<Export> {
        if self.export_legacy_format {
            return Err(error!("export_legacy_format: pickled weights are not written")
                .hint("set it to false; safetensors load everywhere"));
        }
        if self.export_quantization_bit.is_some_and(|bits| !bits.is_null()) {
            return Err(error!("export_quantization_bit: GPTQ is not written")
                .hint("leave it out; quantize makes an NF4 directory of the result"));
        }
        for key in self.other.keys().filter(|key| !WITHOUT_EFFECT.contains(&key.as_str())) {
            cli::warn(format_args!("{key} is not used"));
        }
        let adapters = match self.adapter_name_or_path {
            None => {
                return Err(error!("adapter_name_or_path is missing")
                    .hint("a model without an adapter has nothing to merge"));
            }
            Some(Adapters::Text(text)) => text.split(',').map(|path| PathBuf::from(path.trim())).collect(),
            Some(Adapters::List(list)) => list.into_iter().map(PathBuf::from).collect(),
        };
        let shard_size = match self.export_size {
            None => None,
            Some(size) if size > 0.0 && size < 1e9 => Some((size * 1e9) as u64),
            Some(size) => return Err(error!(Usage, "export_size is {size}, expected gigabytes")),
        };
        Ok(Export { adapters, model: self.model_name_or_path, output: self.export_dir, shard_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Export> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("export.yaml");
        std::fs::write(&path, text).unwrap();
        Export::read(&path)
    }

    #[test]
    fn llama_factorys_keys() {
        let export = read(
            "### model\nmodel_name_or_path: model/Qwen\nadapter_name_or_path: a, b\ntemplate: qwen\n\
             export_dir: merged/qwen # here\nexport_size: 2\nexport_device: cpu\nexport_legacy_format: false\n",
        )
        .unwrap();
        assert_eq!(export.adapters, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(export.model.as_deref(), Some("model/Qwen"));
        assert_eq!(export.output, Some(PathBuf::from("merged/qwen")));
        assert_eq!(export.shard_size, Some(2_000_000_000));
        assert_eq!(read("adapter_name_or_path: [first, second]").unwrap().adapters.len(), 2);
    }

    #[test]
    fn what_is_not_done_is_refused_by_its_key() {
        let error = |more: &str| read(&format!("adapter_name_or_path: a\n{more}")).unwrap_err().to_string();
        assert!(error("export_legacy_format: true").contains("export_legacy_format"));
        assert!(error("export_quantization_bit: 4").contains("export_quantization_bit"));
        assert!(error("export_size: -1").contains("export_size"));
        assert!(read("export_dir: x").unwrap_err().to_string().contains("adapter_name_or_path is missing"));
        assert!(read("a: [").is_err());
    }
}
