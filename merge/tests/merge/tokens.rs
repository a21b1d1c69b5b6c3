//! Adapters of a resized vocabulary, or with rows for tokens.

use std::fs;
use std::path::Path;

use common::checkpoint::{Checkpoint, Tensor};

use tests::dir::Dir;

use crate::place::*;

/// Adapters that PEFT saved, and what it made of them (scripts/golden/resized.py).
#[test]
fn tables_and_rows_for_tokens_are_merged_as_peft_merges_them() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/resized");
    let parent = Dir::new();
    let mut adapters: Vec<String> = names_in(&golden).into_iter().filter(|name| name.contains('-')).collect();
    assert_eq!(adapters.len(), 11);
    for adapter in adapters.drain(..) {
        let result = parent.path(&adapter);
        let assert = merge().arg(golden.join(&adapter)).args(["--verify", "-o"]).arg(&result).assert();
        let said = stderr_of(&assert.success());
        let expected = Checkpoint::open_file(&golden.join(&adapter).join("merged.safetensors")).unwrap();
        let found = Checkpoint::open(&result).unwrap();
        let mut names: Vec<&str> = expected.names().collect();
        names.sort_unstable();
        let mut found_names: Vec<&str> = found.names().collect();
        found_names.sort_unstable();
        assert_eq!(found_names, names, "{adapter}");
        for name in names {
            let (expected, found) = (expected.tensor(name).unwrap(), found.tensor(name).unwrap());
            assert_eq!(found.shape, expected.shape, "{adapter}: {name}");
            for (found, expected) in found.to_f32().unwrap().iter().zip(expected.to_f32().unwrap()) {
                assert!((found - expected).abs() <= 1e-6, "{adapter}: {name} {found}, expected {expected}");
            }
        }
        let settings = fs::read(golden.join(&adapter).join("merged.json")).unwrap();
        let settings: serde_json::Value = serde_json::from_slice(&settings).unwrap();
        let config = config_of(result);
        for key in ["vocab_size", "tie_word_embeddings"] {
            assert_eq!(config[key], settings[key], "{adapter}: {key}");
        }
        let is_resized = settings["vocab_size"] == 23;
        assert_eq!(
            said.contains("no tokenizer.json: the result's tokenizer is that of the base"),
            is_resized
        );
    }
}

#[test]
fn a_resized_adapter_brings_the_tokenizer_of_its_tokens() {
    let parent = workplace();
    let table = bf16("base_model.model.model.embed_tokens.weight", &[44, 24], 8);
    let head = Tensor { name: "base_model.model.lm_head.weight".into(), ..table.clone() };
    let (keys, folder) = (r#""r": 4, "lora_alpha": 8"#, parent.path("adapter"));
    adapter(&folder, "../base", keys, &[(Q, 4)], &[table, head]);
    for (directory, text) in [("base", "of the base"), ("adapter", "of the adapter")] {
        for file in ["tokenizer.json", "added_tokens.json"] {
            fs::write(parent.path(directory).join(file), text).unwrap();
        }
    }
    parent.write("base/merges.txt", "of the base");
    run(&parent, &["adapter", "-o", "m", "--verify"]).success();
    let text = |name: &str| fs::read_to_string(parent.path("m").join(name)).unwrap();
    assert_eq!(text("tokenizer.json") + &text("added_tokens.json"), "of the adapterof the adapter");
    assert_eq!(text("merges.txt"), "of the base");
    let config = config_of(parent.path("m"));
    assert_eq!((config["vocab_size"].as_u64(), &config["tie_word_embeddings"]), (Some(44), &true.into()));

    let table = bf16("base_model.model.model.embed_tokens.weight", &[44, 24], 8);
    adapter(&folder, "../base", keys, &[(Q, 4)], &[table]);
    let said = stderr_of(&run(&parent, &["adapter", "-o", "n"]).code(1));
    assert!(said.contains("would have 44 rows and lm_head.weight 40"), "{said}");
}
