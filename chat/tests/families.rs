//! Greedy answers of tiny models of every family against transformers (`scripts/golden/families.py`).

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::Path;

use assert_cmd::Command;
use tests::golden_model;

/// The answer to a prompt, and what is said beside it.
fn answer(directory: &Path, arguments: &[&str], prompt: &str) -> (String, String) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("chat"));
    command.current_dir(directory).args(arguments).args(["--max-new-tokens", "16", "--device", "cpu"]);
    let output = command.write_stdin(format!("{prompt}\n")).assert().success().get_output().clone();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Before its tokenizer is looked for.
#[test]
fn a_family_that_is_not_supported_is_refused_first() {
    let place = tempfile::tempdir().unwrap();
    fs_err::write(place.path().join("config.json"), r#"{"model_type": "llava", "vision_config": {}}"#)
        .unwrap();
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("chat"));
    let output = command.arg(place.path()).assert().code(1).get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("\"llava\" is not supported: its models have a part that reads images or sound"),
        "{said}"
    );
    assert!(said.contains("hint: the nearest is llama; supported are "), "{said}");
}

#[test]
fn every_family_answers_as_transformers_with_and_without_an_adapter() {
    for name in golden_model::names() {
        let place = tempfile::tempdir().unwrap();
        golden_model::write(&name, &place.path().join("model"));
        let expected = golden_model::expected(&name);
        let prompt = expected["prompt"].as_str().unwrap();
        let (found, said) = answer(place.path(), &["model"], prompt);
        assert_eq!(found, golden_model::text(&expected["answer"]) + "\n", "{name}");
        let reads_images =
            said.contains("model: the text model is used; the part that reads images is left alone");
        assert_eq!(reads_images, name.ends_with("-vision"), "{name}: {said}");
        let adapter = golden_model::directory(&name).join("adapter");
        let (found, _) = answer(place.path(), &[adapter.to_str().unwrap(), "--base", "model"], prompt);
        assert_eq!(found, golden_model::text(&expected["adapter_answer"]) + "\n", "{name} with its adapter");
    }
}
