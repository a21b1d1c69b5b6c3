//! Models of every family, which transformers and bitsandbytes quantized too (`scripts/golden/tiny_models.py`).

use std::fs;

use common::checkpoint::{Checkpoint, INDEX, Index, Tensor, sharded_name, write_file};
use common::model::{Config, text_weights};
use common::nf4::{Quantized, part_of};
use common::weight_names::reads_images;
use serde_json::{Value, json};
use tests::dir::Dir;
use tests::experts::fuse_experts;
use tests::golden_model;

use crate::model::*;

/// The models that are mixtures of experts.
const MIXTURES: [&str; 4] = ["qwen3-moe", "qwen2-moe", "mixtral", "olmoe"];

#[test]
fn every_family_becomes_what_bitsandbytes_makes_of_it() {
    let parent = Dir::new();
    for name in golden_model::names() {
        let source = golden_model::directory(&name);
        let theirs = source.join("nf4");
        let output = format!("{name}-q");
        let mut command = quantize(&parent);
        let assert =
            command.arg(&source).args(["-o", &output, "--compute-dtype", "float32"]).assert().success();
        let reads_images = stderr_of(&assert).contains("the weights that read images are left out");
        assert_eq!(reads_images, name.ends_with("-vision"), "{name}");

        let ours = Checkpoint::open(&parent.path(&output)).unwrap();
        let expected =
            text_weights(Checkpoint::open(&theirs).unwrap(), &Config::read(&theirs).unwrap()).unwrap();
        let sorted = |checkpoint: &Checkpoint| {
            let mut names: Vec<String> = checkpoint.names().map(String::from).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(sorted(&ours), sorted(&expected), "{name}");
        let mut quantized = 0;
        for tensor in expected.names().filter(|name| part_of(&expected, name).is_none()) {
            if let Some(theirs) = Quantized::load(&expected, tensor).unwrap() {
                let ours = Quantized::load(&ours, tensor).unwrap().unwrap();
                assert!(**ours.packed() == **theirs.packed(), "{name}: {tensor}");
                quantized += 1;
            }
        }
        assert!(quantized >= 8, "{name}");
        let mut command = quantize(&parent);
        command.args(["--verify", &output, "--against"]).arg(&source).assert().success();

        let read =
            |path: std::path::PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let (ours, mut theirs) =
            (parent.json(&format!("{output}/config.json")), read(theirs.join("config.json")));
        if reads_images {
            // Nothing is left to skip but the head.
            theirs["quantization_config"]["llm_int8_skip_modules"] = Value::Null;
        }
        assert_eq!(ours["quantization_config"], theirs["quantization_config"], "{name}");
    }
}

#[test]
fn both_layouts_of_experts_are_quantized_to_the_same_bytes() {
    let parent = Dir::new();
    for name in MIXTURES {
        golden_model::write(name, &parent.path("source"));
        let files = ["separate", "fused"].map(|layout| {
            if layout == "fused" {
                fuse_experts(&parent.path("source"));
            }
            let mut command = quantize(&parent);
            let report = format!("{layout}.jsonl");
            command.args(["source", "--force", "-o", layout, "--report", &report]).assert().success();
            quantize(&parent).args(["--verify", layout, "--against", "source"]).assert().success();
            (parent.bytes(&format!("{layout}/config.json")), Checkpoint::open(&parent.path(layout)).unwrap())
        });
        let [(separate_config, separate), (fused_config, fused)] = files;
        assert!(separate_config == fused_config, "{name}");
        assert_eq!(separate.names().count(), fused.names().count(), "{name}");
        for tensor in separate.tensors() {
            assert!(*tensor.bytes == *fused.tensor(&tensor.name).unwrap().bytes, "{name}: {}", tensor.name);
        }
    }
}

/// What transformers loads as a text model by itself.
#[test]
fn of_a_model_that_reads_images_the_text_model_is_written() {
    let parent = Dir::new();
    for (name, model_type, class) in [
        ("gemma3-vision", "gemma3_text", "Gemma3ForCausalLM"),
        ("mistral3-vision", "mistral", "MistralForCausalLM"),
    ] {
        quantize(&parent).arg(golden_model::directory(name)).args(["-o", name]).assert().success();
        let config = parent.json(&format!("{name}/config.json"));
        assert_eq!((&config["model_type"], &config["architectures"]), (&json!(model_type), &json!([class])));
        assert_eq!(config["vocab_size"], 96);
        assert_eq!(config["tie_word_embeddings"], name == "gemma3-vision");
        assert!(["vision_config", "text_config"].iter().all(|key| config.get(key).is_none()));
        let written = Checkpoint::open(&parent.path(name)).unwrap();
        assert!(written.names().all(|name| name.starts_with("model.") || name.starts_with("lm_head.")));
    }
}

/// The names that larger models have had, and a file in which nothing is text.
#[test]
fn a_text_model_is_found_under_every_name_and_in_every_file() {
    let parent = Dir::new();
    let golden = golden_model::directory("mistral3-vision");
    quantize(&parent).arg(&golden).args(["-o", "expected"]).assert().success();
    let source = parent.make("source");
    let (text, images): (Vec<Tensor>, Vec<Tensor>) = Checkpoint::open(&golden)
        .unwrap()
        .tensors()
        .partition(|tensor| tensor.name.starts_with("language_model."));
    let newer = |tensor: Tensor| {
        let name = tensor.name.replacen("language_model.model.", "model.language_model.", 1);
        let name = name.replacen("language_model.lm_head.", "lm_head.", 1);
        let name = if reads_images(&name) { format!("model.{name}") } else { name };
        Tensor { name, ..tensor }
    };
    let mut index = Index::default();
    for (number, tensors) in [images, text].into_iter().enumerate() {
        let (file, tensors) =
            (sharded_name(number + 1, 2), tensors.into_iter().map(newer).collect::<Vec<_>>());
        write_file(&source.join(&file), &tensors).unwrap();
        index.weight_map.extend(tensors.into_iter().map(|tensor| (tensor.name, file.clone())));
    }
    parent.write(&format!("source/{INDEX}"), index.to_json().unwrap());
    fs::copy(golden.join("config.json"), source.join("config.json")).unwrap();
    for run in ["made", "already made"] {
        let assert = quantize(&parent).args(["source", "-o", "q"]).assert().success();
        assert_eq!(stderr_of(&assert).contains("already made"), run == "already made");
    }
    assert_eq!(parent.names("q"), ["config.json", "made-by.json", &sharded_name(2, 2), INDEX]);
    assert_eq!(parent.bytes("q/config.json"), parent.bytes("expected/config.json"));
    let [found, expected] = ["q", "expected"].map(|name| Checkpoint::open(&parent.path(name)).unwrap());
    for tensor in expected.tensors() {
        assert!(*found.tensor(&tensor.name).unwrap().bytes == *tensor.bytes, "{}", tensor.name);
    }
    assert_eq!(found.names().count(), expected.names().count());
    quantize(&parent).args(["--verify", "q", "--against", "source"]).assert().success();
}
