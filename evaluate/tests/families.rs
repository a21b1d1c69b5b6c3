//! Losses of tiny models of every family against transformers (`scripts/golden/families.py`).

#![allow(clippy::unwrap_used)] // a test file as a whole

use assert_cmd::Command;
use serde_json::Value;
use tests::golden_model;

/// As in `scripts/golden/families.py`.
const ROWS: &str = r#"[{"instruction": "ab", "output": "cde"}, {"instruction": "Name it.", "output": "x-y"},
    {"instruction": "1+1=", "output": "2"}]"#;

#[test]
fn every_family_has_the_losses_of_transformers() {
    for name in golden_model::names() {
        let place = tempfile::tempdir().unwrap();
        golden_model::write(&name, &place.path().join("model"));
        fs_err::write(place.path().join("rows.json"), ROWS).unwrap();
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("evaluate"));
        command.current_dir(place.path()).args([
            "model",
            "--loss",
            "rows.json",
            "--details",
            "details.jsonl",
        ]);
        command.args(["--device", "cpu"]).assert().success();
        let details = fs_err::read_to_string(place.path().join("details.jsonl")).unwrap();
        let lines: Vec<Value> = details.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = golden_model::expected(&name);
        let expected = expected["losses"].as_array().unwrap();
        assert_eq!(lines.len(), expected.len(), "{name}");
        for (line, expected) in lines.iter().zip(expected) {
            let (found, expected) = (line["loss"].as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((found - expected).abs() < 1e-5 * expected, "{name}: {line}, not {expected}");
        }
    }
}
