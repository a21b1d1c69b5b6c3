//! What adapters are targeted at in every family, against LLaMA-Factory and PEFT (`scripts/golden/targets.py`).

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::collections::BTreeMap;

use common::model::Config;
use serde::Deserialize;
use tests::golden_model;

/// What the others target in a family.
#[derive(Deserialize)]
struct Targets {
    llama_factory: Vec<String>,
    peft: Vec<String>,
}

#[test]
fn all_linear_layers_are_those_of_llama_factory_and_peft() {
    let text = std::fs::read_to_string(golden_model::reference("targets.json")).unwrap();
    let golden: BTreeMap<String, Targets> = serde_json::from_str(&text).unwrap();
    for name in golden_model::names() {
        let directory = golden_model::directory(&name);
        let config = Config::read(&directory).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(directory.join("config.json")).unwrap()).unwrap();
        let expected = &golden[json["model_type"].as_str().unwrap()];
        let mut targets = config.targets();
        targets.sort_unstable();
        assert_eq!(targets, expected.llama_factory, "{name}");
        if config.is_composite {
            // PEFT's `all-linear` also finds the layers that read images, which LLaMA-Factory leaves alone.
            assert!(targets.iter().all(|target| expected.peft.iter().any(|name| name == target)), "{name}");
        } else if config.experts().next().is_some() {
            // PEFT takes experts and routers of most mixtures, and not what their dense layers have in place of them.
            assert!(expected.peft.iter().all(|name| targets.contains(&name.as_str())), "{name}");
        } else {
            assert_eq!(targets, expected.peft, "{name}");
        }
        let attention = config.attention_targets();
        let expected: &[&str] = match targets.contains(&"qkv_proj") {
            true => &["qkv_proj", "o_proj"],
            false => &["q_proj", "k_proj", "v_proj", "o_proj"],
        };
        assert_eq!(attention, expected, "{name}");
    }
}
