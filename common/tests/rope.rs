//! Every scaling of rotary embeddings against transformers (`scripts/golden/rope.py`).

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::Path;

use common::device::Device;
use common::model::{Batch, Cache, KeyValueCache, Model, Sequence};
use serde_json::Value;

/// Tokens of a text that go through the model before the others follow one by one.
const PROMPT: usize = 12;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// The model of the goldens with other keys in its config.json.
fn model(keys: &Value) -> Model {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/qwen2");
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(golden.join("model.safetensors"), directory.path().join("model.safetensors")).unwrap();
    let config = std::fs::read(golden.join("config.json")).unwrap();
    let mut config: serde_json::Map<String, Value> = serde_json::from_slice(&config).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        match value {
            Value::Null => config.remove(key),
            value => config.insert(key.clone(), value.clone()),
        };
    }
    std::fs::write(directory.path().join("config.json"), Value::Object(config).to_string()).unwrap();
    Model::load(directory.path(), &Device::Cpu).unwrap()
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0f32, |scale, value| scale.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5 * scale, "{what}: {found}, expected {expected}");
    }
}

#[test]
fn logits_are_transformers_under_every_scaling() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/rope.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let tokens: Vec<u32> = numbers(&golden["tokens"]).into_iter().map(|token| token as u32).collect();
    let rows: Vec<u32> = numbers(&golden["rows"]).into_iter().map(|row| row as u32).collect();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 15);
    for case in cases {
        let what = case["config"].to_string();
        let model = model(&case["config"]);
        let expected: Vec<f32> = case["logits"].as_array().unwrap().iter().flat_map(numbers).collect();
        let logits = model.logits(&Batch::prompt(&tokens, 0), &rows, Cache::None).unwrap();
        assert_near(&logits, &expected, &what);

        // Behind another sequence in one pass.
        let short = Sequence { tokens: &tokens[3..9], trained: &[] };
        let batch = Batch::pack([short, Sequence { tokens: &tokens, trained: &[] }], 0);
        let behind: Vec<u32> = rows.iter().map(|row| row + 6).collect();
        let logits = model.logits(&batch, &behind, Cache::None).unwrap();
        assert_near(&logits, &expected, &format!("packed, {what}"));

        let mut cache = KeyValueCache::new();
        model.logits(&Batch::prompt(&tokens[..PROMPT], 0), &[], Cache::Extend(&mut cache)).unwrap();
        let mut decoded = Vec::new();
        for (position, token) in tokens.iter().enumerate().skip(PROMPT) {
            let batch = Batch::prompt(&[*token], position);
            decoded = model.logits(&batch, &[0], Cache::Extend(&mut cache)).unwrap();
        }
        assert_near(&decoded, &numbers(&case["decoded"]), &format!("decoded, {what}"));
    }
}
