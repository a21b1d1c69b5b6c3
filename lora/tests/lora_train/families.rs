//! Tiny models of every family that transformers made: plans, what adapters are placed on and how they are named.

use std::collections::BTreeSet;

use common::adapter::Adapter;
use common::checkpoint::{Checkpoint, Tensor, write_file};
use common::device::Device;
use common::model::{Config, Model, text_config, text_weights};
use serde_json::json;
use tests::golden_model;

use crate::place::Place;

const RUN: &str = "model --data rows.json --learning-rate 1e-2 --per-device-train-batch-size 2 \
    --gradient-accumulation-steps 1 --device cpu";

impl Place {
    /// A tiny model of a family in the place of the one that is there, and two rows.
    fn of_family(name: &str) -> Self {
        let place = Self::new();
        golden_model::write(name, &place.path("model"));
        let rows = json!([{"instruction": "ab", "output": "cde"}, {"instruction": "x", "output": "yz"}]);
        place.write("rows.json", rows.to_string());
        place
    }

    /// Leaves the text model alone in the place of the larger model.
    fn become_text_model(&self) {
        let config = self.json("model/config.json");
        let checkpoint = Checkpoint::open(&self.path("model")).unwrap();
        let text = text_weights(checkpoint, &Config::parse(&config).unwrap()).unwrap();
        let tensors: Vec<Tensor> = text.tensors().collect();
        self.write("model/config.json", text_config(&config).unwrap().to_string());
        write_file(&self.path("model/model.safetensors"), &tensors).unwrap();
    }

    /// The names of the tensors in an adapter's file, without layers and parts.
    fn modules(&self, adapter: &str) -> BTreeSet<String> {
        let file = self.path(adapter).join("adapter_model.safetensors");
        let checkpoint = Checkpoint::open_file(&file).unwrap();
        let module = |name: &str| name.replace(".layers.0.", ".N.").replace(".layers.1.", ".N.");
        let module = |name: &str| module(name).split(".lora_").next().unwrap().to_string();
        checkpoint.names().map(module).collect()
    }
}

#[test]
fn every_family_is_planned_without_its_weights() {
    for name in golden_model::names() {
        let place = Place::of_family(&name);
        let (out, said) = place.run(&format!("{RUN} --max-steps 1 --dry-run -o out"));
        assert!(out.is_empty() && said.contains("Number of trainable parameters"), "{name}: {said}");
        let notes = said.matches("the text model is used; the part that reads images is left alone").count();
        assert_eq!(notes, usize::from(name.ends_with("-vision")), "{name}: {said}");
        assert!(!place.path("out").exists());
    }
}

/// Before its tokenizer is looked for.
#[test]
fn a_family_that_is_not_supported_is_refused_first() {
    let place = Place::new();
    place.write("other/config.json", r#"{"model_type": "whisper", "is_encoder_decoder": true}"#);
    let (code, said) = place.fail("other --data data.json -o out");
    assert!(
        code == 1 && said.contains("other/config.json: model_type \"whisper\" is not supported"),
        "{said}"
    );
    assert!(said.contains("hint: supported are qwen2 (Qwen2, Qwen2.5), "), "{said}");
    assert!(!place.path("out").exists());
}

#[test]
fn attention_is_a_name_for_its_projections() {
    for (name, projections) in [
        ("qwen3", vec!["q_proj", "k_proj", "v_proj", "o_proj"]),
        ("phi3-longrope", vec!["qkv_proj", "o_proj"]),
        ("qwen2-moe", vec!["q_proj", "k_proj", "v_proj", "o_proj"]),
    ] {
        let place = Place::of_family(name);
        place.train(&format!("{RUN} --max-steps 1 --lora-target attention -o out"));
        assert_eq!(place.json("out/adapter_config.json")["target_modules"], json!(projections), "{name}");
        let expected =
            projections.iter().map(|module| format!("base_model.model.model.N.self_attn.{module}"));
        assert_eq!(place.modules("out"), expected.collect(), "{name}");
        assert_eq!(place.json("out/made-by.json")["recipe"]["lora_target"], json!(["attention"]));
    }
    // Beside other names, from a file, and within all.
    let place = Place::of_family("qwen3");
    place.write(
        "train.yaml",
        "model_name_or_path: model\nlora_target: attention,down_proj,q_proj\ndata: rows.json\n",
    );
    place.train("train.yaml --max-steps 1 --device cpu -o out");
    let targets = json!(["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]);
    assert_eq!(place.json("out/adapter_config.json")["target_modules"], targets);
    place.train(&format!("{RUN} --max-steps 1 --lora-target all,attention -o every"));
    assert_eq!(place.modules("every").len(), 7);
    let (code, said) = place.fail(&format!("{RUN} --max-steps 1 --lora-target attention,mamba -o wrong"));
    assert!(code == 2 && said.contains("\"mamba\" names no linear layer"), "{said}");
    assert!(said.contains("gate_proj, up_proj and down_proj, attention, or all"), "{said}");
}

/// PEFT finds the modules of a text model below `model.language_model`, and the same names in the part that reads
/// images, which must have no adapter.
#[test]
fn an_adapter_of_a_text_model_within_a_larger_one_is_named_as_peft_finds_it() {
    for name in ["gemma3-vision", "mistral3-vision"] {
        let place = Place::of_family(name);
        place.train(&format!("{RUN} --max-steps 2 --lora-target attention,mlp.down_proj -o out"));
        let modules =
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj"];
        let expected = modules.map(|module| format!("base_model.model.model.language_model.N.{module}"));
        assert_eq!(place.modules("out"), expected.into(), "{name}");
        let pattern = r"(?:.*\.)?language_model\.(?:.*\.)?(?:q_proj|k_proj|v_proj|o_proj|mlp\.down_proj)";
        assert_eq!(place.json("out/adapter_config.json")["target_modules"], pattern, "{name}");
        // The same adapter again: loaded, and trained on from where it was.
        Model::load(&place.path("out"), &Device::Cpu).unwrap();
        place.train(&format!("{RUN} --max-steps 1 --adapter-name-or-path out -o more"));
        assert_eq!(place.modules("more"), place.modules("out"));
        assert_eq!(place.json("more/adapter_config.json")["target_modules"], pattern);
        let [first, second] = ["out", "more"].map(|name| Adapter::load(&place.path(name)).unwrap().modules);
        assert!(first.keys().eq(second.keys()) && first != second);
        // Onto the text model alone, where PEFT finds modules by their names.
        place.become_text_model();
        place.train(&format!("{RUN} --max-steps 1 --adapter-name-or-path out -o alone"));
        let expected = modules.map(|module| format!("base_model.model.model.N.{module}"));
        assert_eq!(place.modules("alone"), expected.into(), "{name}");
        let names = modules.map(|module| module.rsplit('.').next().unwrap());
        assert_eq!(place.json("alone/adapter_config.json")["target_modules"], json!(names), "{name}");
        let alone = Adapter::load(&place.path("alone")).unwrap().modules;
        assert!(alone == second, "{name}");
    }
}
