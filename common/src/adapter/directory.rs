//! An adapter in memory, read from and written to its directory.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::config::MERGE_IN_PEFT;
use super::experts::{self, ExpertsLora};
use super::lora::{Lora, Update};
use super::tokens::TokenRows;
use super::{AdapterConfig, CONFIG};
use crate::checkpoint::{self, Checkpoint, Tensor};
use crate::weight_names::{canonical_name, is_within_larger_model, within_larger_model};
use crate::{Result, bail, cli, error};

/// A PEFT adapter in memory.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use common::adapter::{Adapter, AdapterConfig, Lora};
///
/// let module = "model.layers.0.self_attn.q_proj".to_owned();
/// let lora = Lora { a: vec![0.5; 4], b: vec![0.25; 6], rank: 2, inputs: 2, outputs: 3, scale: 8.0 };
/// let adapter = Adapter {
///     config: AdapterConfig::new("Qwen/Qwen2.5-0.5B", 2, 16.0, vec!["q_proj".into()]),
///     modules: BTreeMap::from([(module.clone(), lora)]),
///     experts: BTreeMap::new(),
///     replacements: BTreeMap::new(),
///     tokens: BTreeMap::new(),
/// };
/// let directory = tempfile::tempdir()?;
/// adapter.save(directory.path())?;
///
/// let loaded = Adapter::load(directory.path())?;
/// assert_eq!(loaded.modules, adapter.modules);
/// assert_eq!(loaded.modules[&module].scale, 8.0, "lora_alpha / r");
/// # Ok::<(), common::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Adapter {
    /// The content of `adapter_config.json`.
    pub config: AdapterConfig,
    /// The update of each module, by the module's path, such as `model.layers.0.self_attn.q_proj`.
    pub modules: BTreeMap<String, Lora>,
    /// The updates of a mixture's experts, by the path of the parameter, such as
    /// `model.layers.0.mlp.experts.gate_up_proj`.
    pub experts: BTreeMap<String, ExpertsLora>,
    /// Tensors that replace those of the base, by their name in it: trained biases, and the modules of
    /// `modules_to_save`.
    pub replacements: BTreeMap<String, Tensor>,
    /// Single rows that replace those of the base, by the name of the weight in it.
    pub tokens: BTreeMap<String, TokenRows>,
}

/// The beginning of every name in the file, which stands for PEFT's wrapper and its model.
const PREFIX: &str = "base_model.model.";

impl Adapter {
    /// Reads the adapter in a directory.
    pub fn load(directory: &Path) -> Result<Self> {
        let mut config = AdapterConfig::read(directory)?;
        let file = directory.join(checkpoint::ADAPTER);
        if !file.exists() {
            // Says what there is instead, and what to do about it.
            Checkpoint::open(directory)?;
            bail!(Missing, "{} has no {}", directory.display(), checkpoint::ADAPTER);
        }
        let checkpoint = Checkpoint::open_file(&file)?;
        let mut a = BTreeMap::new();
        let mut b = BTreeMap::new();
        let mut replacements = BTreeMap::new();
        let mut tokens = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let Some(stored) = tensor.name.strip_prefix(PREFIX) else {
                bail!(Malformed, "{}: tensor {} does not begin with {PREFIX}", file.display(), tensor.name);
            };
            config.is_composite |= is_within_larger_model(stored);
            let name = &*canonical_name(stored);
            if let Some(stored) = module(stored, "lora_A") {
                let module = module(name, "lora_A").unwrap_or(stored);
                a.insert(module.to_string(), (stored.to_string(), tensor));
            } else if let Some(module) = module(name, "lora_B") {
                b.insert(module.to_string(), tensor);
            } else if name.contains("lora_") {
                return Err(error!(
                    "{}: tensor {} is of a kind of adapter that is not supported",
                    file.display(),
                    tensor.name
                )
                .hint(MERGE_IN_PEFT));
            } else if let Some(module) = module(&format!("{name}.weight"), "trainable_tokens_delta") {
                let module = module.trim_end_matches(".token_adapter").to_string();
                let rows = TokenRows::new(config.trainable_token_indices.as_ref(), &module, tensor)?;
                tokens.insert(format!("{module}.weight"), rows);
            } else if let Some(name) = replaced(name) {
                replacements.insert(name.clone(), Tensor { name, ..tensor });
            }
        }
        if let Some(module) = b.keys().find(|module| !a.contains_key(*module)) {
            bail!(Malformed, "{} has lora_B of {module} without lora_A", file.display());
        }
        let (mut modules, mut experts) = (BTreeMap::new(), BTreeMap::new());
        let inner: BTreeSet<String> =
            a.keys().filter_map(|path| path.strip_suffix(".base_layer")).map(str::to_owned).collect();
        for (module, (stored, a)) in a {
            let Some(b) = b.remove(&module) else {
                bail!(Malformed, "{} has lora_A of {module} without lora_B", file.display());
            };
            match experts::parameter_of(&config, &module, inner.contains(&module))? {
                Some(name) => {
                    let lora = ExpertsLora::read(&config, &name, &a, &b)?;
                    experts.insert(name, lora);
                }
                None => {
                    modules.insert(module, Lora::read(&config, &stored, &a, &b)?);
                }
            }
        }
        Ok(Self { config, modules, experts, replacements, tokens })
    }

    /// Writes an adapter that PEFT loads into `directory`, which must exist. Each file appears whole.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let stored = |name| match self.config.is_composite {
            true => within_larger_model(name),
            false => Cow::Borrowed(name),
        };
        let mut tensors = Vec::with_capacity(2 * self.modules.len());
        for (module, lora) in &self.modules {
            let module = stored(module);
            let name = |part| format!("{PREFIX}{module}.{part}.weight");
            tensors.push(Tensor::from_f32(name("lora_A"), vec![lora.rank, lora.inputs], &lora.a));
            tensors.push(Tensor::from_f32(name("lora_B"), vec![lora.outputs, lora.rank], &lora.b));
        }
        for (name, lora) in &self.experts {
            let wrapper = experts::wrapper_of(name, &|name| self.experts.contains_key(name));
            tensors.extend(lora.tensors(&format!("{PREFIX}{wrapper}")));
        }
        for (name, tensor) in &self.replacements {
            tensors.push(Tensor { name: format!("{PREFIX}{}", stored(name)), ..tensor.clone() });
        }
        for (name, rows) in &self.tokens {
            let module = stored(name.trim_end_matches(".weight"));
            let name = format!("{PREFIX}{module}.token_adapter.trainable_tokens_delta");
            tensors.push(Tensor { name, ..rows.values.clone() });
        }
        checkpoint::write_file(&directory.join(checkpoint::ADAPTER), &tensors)?;
        cli::write_file(&directory.join(CONFIG), &(serde_json::to_string_pretty(&self.config)? + "\n"))
    }
}

impl Adapter {
    /// The update of the module or of the expert's matrix at a path, as `model.layers.0.mlp.experts.3.up_proj`.
    /// Fails where the adapter has other experts.
    pub fn update(&self, module: &str) -> Result<Option<Update<'_>>> {
        match self.modules.get(module) {
            Some(lora) => Ok(Some(lora.update())),
            None => experts::update(|name| self.experts.get(name), module),
        }
    }

    /// The first parameter of experts of which not every matrix is among `modules`.
    pub fn missing_experts<'a>(&self, modules: impl Iterator<Item = &'a str>) -> Option<&str> {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        let mut matrices = 1;
        for (parameter, of_expert) in modules.filter_map(experts::parameter_of_matrix) {
            matrices = matrices.max(of_expert);
            *found.entry(parameter).or_default() += 1;
        }
        let is_whole = |(name, lora): &(&String, &ExpertsLora)| {
            let of_expert = if name.ends_with("gate_up_proj") { matrices } else { 1 };
            found.get(*name).is_some_and(|&found| found == lora.experts * of_expert)
        };
        self.experts.iter().find(|entry| !is_whole(entry)).map(|(name, _)| name.as_str())
    }
}

/// The module in a name such as `MODULE.lora_A.weight`; in older files the adapter's name is between.
fn module<'a>(name: &'a str, part: &str) -> Option<&'a str> {
    let name = name.strip_suffix(".weight")?;
    let name = name.strip_suffix(".default").unwrap_or(name);
    name.strip_suffix(part)?.strip_suffix('.')
}

/// The name of the base's tensor that a tensor of an adapter replaces. Where the vocabulary was resized,
/// PEFT saves a module under the names of its wrapper: as trained, and as it was before (`None`).
fn replaced(name: &str) -> Option<String> {
    if name.contains(".original_module.") {
        return None;
    }
    let wrappers = [".token_adapter", ".base_layer", ".modules_to_save.default", ".modules_to_save"];
    Some(wrappers.iter().fold(name.to_string(), |name, wrapper| name.replace(&format!("{wrapper}."), ".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter() -> Adapter {
        let lora = |seed: f32| Lora {
            a: (0..2 * 3).map(|i| i as f32 * seed).collect(),
            b: (0..4 * 2).map(|i| i as f32 - seed).collect(),
            rank: 2,
            inputs: 3,
            outputs: 4,
            scale: 8.0,
        };
        let config = AdapterConfig::new("some/base", 2, 16.0, vec!["q_proj".into(), "up_proj".into()]);
        let modules = BTreeMap::from([
            ("model.layers.0.self_attn.q_proj".to_string(), lora(0.5)),
            ("model.layers.0.mlp.up_proj".to_string(), lora(0.25)),
        ]);
        Adapter {
            config,
            modules,
            experts: BTreeMap::new(),
            replacements: BTreeMap::new(),
            tokens: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let saved = adapter();
        saved.save(directory.path()).unwrap();
        let loaded = Adapter::load(directory.path()).unwrap();
        assert_eq!(loaded.modules, saved.modules);
        assert_eq!(loaded.config.base_model_name_or_path.as_deref(), Some("some/base"));
        let mut files: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["adapter_config.json", "adapter_model.safetensors"]);
    }

    fn error_of(tensors: &[Tensor]) -> String {
        let directory = tempfile::tempdir().unwrap();
        adapter().save(directory.path()).unwrap();
        checkpoint::write_file(&directory.path().join(checkpoint::ADAPTER), tensors).unwrap();
        Adapter::load(directory.path()).unwrap_err().to_string()
    }

    #[test]
    fn tensors_that_do_not_fit_are_named() {
        let tensor = |name: &str, shape: [usize; 2]| {
            Tensor::from_f32(
                format!("base_model.model.{name}"),
                shape.to_vec(),
                &vec![0.0; shape[0] * shape[1]],
            )
        };
        let (a, b) = (tensor("m.q_proj.lora_A.weight", [2, 3]), tensor("m.q_proj.lora_B.weight", [4, 2]));
        assert!(error_of(std::slice::from_ref(&a)).contains("lora_A of m.q_proj without lora_B"));
        assert!(error_of(std::slice::from_ref(&b)).contains("lora_B of m.q_proj without lora_A"));
        assert!(error_of(&[a.clone(), tensor("m.q_proj.lora_B.weight", [4, 3])]).contains("do not fit"));
        let other_rank = [tensor("m.q_proj.lora_A.weight", [3, 3]), tensor("m.q_proj.lora_B.weight", [4, 3])];
        assert!(error_of(&other_rank).contains("rank 3, adapter_config.json says 2"));
        let dora = tensor("m.q_proj.lora_magnitude_vector.weight", [1, 4]);
        assert!(error_of(&[a, b, dora]).contains("lora_magnitude_vector"));
        assert!(
            error_of(&[Tensor::from_f32("m.lora_A.weight", vec![1], &[0.0])]).contains("does not begin with")
        );
    }

    #[test]
    fn biases_and_whole_modules_replace_those_of_the_base() {
        let directory = tempfile::tempdir().unwrap();
        adapter().save(directory.path()).unwrap();
        let tensors = [
            Tensor::from_f32(
                "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias",
                vec![1],
                &[1.0],
            ),
            Tensor::from_f32("base_model.model.lm_head.weight", vec![1, 1], &[2.0]),
            Tensor::from_f32("base_model.model.m.lora_A.default.weight", vec![2, 1], &[1.0, 2.0]),
            Tensor::from_f32("base_model.model.m.lora_B.default.weight", vec![1, 2], &[3.0, 4.0]),
        ];
        checkpoint::write_file(&directory.path().join(checkpoint::ADAPTER), &tensors).unwrap();
        let loaded = Adapter::load(directory.path()).unwrap();
        let names: Vec<&str> = loaded.replacements.keys().map(String::as_str).collect();
        assert_eq!(names, ["lm_head.weight", "model.layers.0.self_attn.q_proj.bias"]);
        assert_eq!(loaded.modules["m"].b, [3.0, 4.0]);
    }
}
