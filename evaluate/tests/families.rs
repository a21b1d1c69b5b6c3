//! Losses and log-probabilities of tiny models of every family against transformers (`scripts/golden/families.py`).

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;
use tests::golden_model;

/// As in `scripts/golden/families.py`.
const ROWS: &str = r#"[{"instruction": "ab", "output": "cde"}, {"instruction": "Name it.", "output": "x-y"},
    {"instruction": "1+1=", "output": "2"}]"#;

/// The loss of each of the rows.
fn losses(place: &Path) -> Vec<f64> {
    fs_err::write(place.join("rows.json"), ROWS).unwrap();
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("evaluate"));
    command.current_dir(place).args([
        "model",
        "--loss",
        "rows.json",
        "--details",
        "details.jsonl",
        "--force",
    ]);
    command.args(["--device", "cpu"]).assert().success();
    let details = fs_err::read_to_string(place.join("details.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
    details.lines().map(loss).collect()
}

#[test]
fn every_family_has_the_losses_of_transformers() {
    for name in golden_model::names() {
        let place = tempfile::tempdir().unwrap();
        golden_model::write(&name, &place.path().join("model"));
        let found = losses(place.path());
        let expected: Vec<f64> =
            serde_json::from_value(golden_model::expected(&name)["losses"].clone()).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5 * expected, "{name}: {found}, not {expected}");
        }
    }
}

/// After a question that is longer than every window of these models.
#[test]
fn every_family_has_the_log_probabilities_of_transformers() {
    for name in golden_model::names() {
        let place = tempfile::tempdir().unwrap();
        golden_model::write(&name, &place.path().join("model"));
        for split in ["dev", "test"] {
            let folder = place.path().join("mmlu").join(split);
            fs_err::create_dir_all(&folder).unwrap();
            fs_err::write(folder.join(format!("x_{split}.csv")), "q,1,2,3,4,A\n").unwrap();
        }
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("evaluate"));
        command
            .current_dir(place.path())
            .args(["model", "--data", "mmlu", "--shots", "0", "--device", "cpu"]);
        command.args(["--details", "details.jsonl"]).assert().success();
        let details = fs_err::read(place.path().join("details.jsonl")).unwrap();
        let details: Value = serde_json::from_slice(&details).unwrap();
        let [found, expected]: [Vec<f64>; 2] = [&details, &golden_model::expected(&name)]
            .map(|of| serde_json::from_value(of["logprobs"].clone()).unwrap());
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5 * expected.abs(), "{name}: {found}, not {expected}");
        }
    }
}

/// Gemma's files do not say that the head is the embedding table: older transformers left out what is the default.
#[test]
fn a_head_of_gemma_is_the_table_unless_config_says_otherwise() {
    for name in ["gemma2", "gemma3", "gemma3-vision"] {
        let place = tempfile::tempdir().unwrap();
        golden_model::write(name, &place.path().join("model"));
        let expected = losses(place.path());
        let path = place.path().join("model/config.json");
        let mut config: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        for part in ["/text_config", ""] {
            if let Some(Value::Object(keys)) = config.pointer_mut(part) {
                keys.remove("tie_word_embeddings");
            }
        }
        fs_err::write(&path, config.to_string()).unwrap();
        assert_eq!(losses(place.path()), expected, "{name}");
    }
}
