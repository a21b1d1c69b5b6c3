//! Models of every family, merged as PEFT merges them (`scripts/golden/families.py`).

use common::checkpoint::{Checkpoint, Tensor};
use common::model::{Config, text_weights};
use tests::dir::Dir;
use tests::experts::fuse_experts;
use tests::golden_model;

use crate::place::*;

fn sorted(checkpoint: &Checkpoint) -> Vec<String> {
    let mut names: Vec<String> = checkpoint.names().map(String::from).collect();
    names.sort_unstable();
    names
}

/// The first and the last row of a matrix.
fn two_rows(tensor: &Tensor) -> Vec<f32> {
    let values = tensor.to_f32().unwrap();
    let columns = tensor.shape[1];
    [&values[..columns], &values[values.len() - columns..]].concat()
}

/// Merges the adapter of a tiny model into `base`.
fn merged(parent: &Dir, name: &str, base: &std::path::Path, output: &str) -> (Checkpoint, String) {
    let mut command = merge();
    command.current_dir(parent.path("")).arg(golden_model::directory(name).join("adapter"));
    let assert = command.arg("--base").arg(base).args(["--verify", "-o", output]).assert().success();
    (Checkpoint::open(&parent.path(output)).unwrap(), stderr_of(&assert))
}

#[test]
fn every_family_is_merged_as_peft_does_it() {
    let parent = Dir::new();
    let golden = Checkpoint::open_file(&golden_model::reference("families.safetensors")).unwrap();
    for name in golden_model::names() {
        let base = golden_model::directory(&name);
        let (written, said) = merged(&parent, &name, &base, &name);
        assert_eq!(said.contains("the weights that read images stay as they are"), name.ends_with("-vision"));
        // A model that reads images stays one.
        let base = Checkpoint::open(&base).unwrap();
        assert_eq!(sorted(&written), sorted(&base), "{name}");
        let mut changed = 0;
        for expected in golden.tensors() {
            let Some(tensor) = expected.name.strip_prefix(&format!("{name}/")) else { continue };
            changed += 1;
            let found = two_rows(&written.tensor(tensor).unwrap());
            for (found, expected) in found.iter().zip(expected.to_f32().unwrap()) {
                // Rounded once to bf16, which has eight digits.
                let near = (found - expected).abs() <= expected.abs() / 256.0 + 1e-6;
                assert!(near, "{name}: {tensor} has {found}, not {expected}");
            }
        }
        let is_changed = |tensor: &Tensor| *tensor.bytes != *base.tensor(&tensor.name).unwrap().bytes;
        let weights =
            written.tensors().filter(|tensor| tensor.name.contains("layers.0.") && is_changed(tensor));
        assert_eq!(weights.count(), changed, "{name}");
        let config = parent.json(&format!("{name}/config.json"));
        let original = config_in(&golden_model::directory(&name));
        assert_eq!(config, original, "{name}");
    }
}

/// The result has a tensor for each expert, whatever the base has, as transformers saves a model.
#[test]
fn both_layouts_of_experts_are_merged_to_the_same_weights() {
    let parent = Dir::new();
    for name in ["qwen2-moe", "mixtral"] {
        let (separate, _) =
            merged(&parent, name, &golden_model::directory(name), &format!("{name}-separate"));
        let base = parent.path(&format!("{name}-base"));
        golden_model::write(name, &base);
        fuse_experts(&base);
        let (fused, _) = merged(&parent, name, &base, &format!("{name}-fused"));
        assert_eq!(sorted(&separate), sorted(&fused), "{name}");
        for tensor in separate.tensors() {
            assert!(*tensor.bytes == *fused.tensor(&tensor.name).unwrap().bytes, "{name}: {}", tensor.name);
        }
    }
}

fn config_in(directory: &std::path::Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(directory.join("config.json")).unwrap()).unwrap()
}

/// An adapter knows its weights in the whole model, in one that was quantized by transformers, and in the text
/// model alone.
#[test]
fn an_adapter_of_a_larger_model_fits_its_text_model_too() {
    let parent = Dir::new();
    for name in ["gemma3-vision", "mistral3-vision"] {
        let whole = golden_model::directory(name);
        let text_config = Config::read(&whole).unwrap();
        let base = text_weights(Checkpoint::open(&whole).unwrap(), &text_config).unwrap();
        let text = parent.make(&format!("{name}-text"));
        let tensors: Vec<Tensor> = base.tensors().collect();
        common::checkpoint::write_file(&text.join("model.safetensors"), &tensors).unwrap();
        let config = config_in(&whole);
        let config = common::model::text_config(&config).unwrap().to_string();
        parent.write(&format!("{name}-text/config.json"), config);
        let (alone, _) = merged(&parent, name, &text, &format!("{name}-alone"));
        let (within, _) = merged(&parent, name, &whole, &format!("{name}-within"));
        let within = text_weights(within, &text_config).unwrap();
        assert_eq!(sorted(&alone), sorted(&within));
        for tensor in alone.tensors() {
            assert!(*tensor.bytes == *within.tensor(&tensor.name).unwrap().bytes, "{name}: {}", tensor.name);
        }
        let (dequantized, _) = merged(&parent, name, &whole.join("nf4"), &format!("{name}-nf4"));
        let names = sorted(&Checkpoint::open(&whole).unwrap());
        assert_eq!(sorted(&dequantized), names, "nothing is left of the quantization");
    }
}
