//! What `lora-train` trains on, as a user says it.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::json;
use tempfile::TempDir;

/// A folder with a model, data and a dataset_info.json in it, where the tool runs.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        tests::tiny_model::write(&folder.path().join("model"), 7);
        let rows: Vec<_> = (0..6)
            .map(|i| json!({"ask": format!("q{i}"), "say": format!("a{i}"), "before": [["h", "i"]]}))
            .collect();
        let info = json!({"words": {"file_name": "words.json",
            "columns": {"prompt": "ask", "response": "say", "history": "before"}}});
        for (name, value) in [("words.json", json!(rows)), ("dataset_info.json", info)] {
            fs_err::write(folder.path().join(name), value.to_string()).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Trains for a step on the named dataset, and returns what is said.
    fn train(&self, arguments: &str) -> String {
        let run = Command::cargo_bin("lora-train")
            .unwrap()
            .current_dir(self.folder.path())
            .args("model --dataset words --dataset-dir . --max-steps 1 -o out --force".split_whitespace())
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        assert!(run.status.success(), "{said}");
        said
    }
}

#[test]
fn datasets_by_name_and_examples_to_look_at() {
    let place = Place::new();
    let said = place.train("--max-samples 4 --show-examples 1");
    assert!(said.contains("Num examples = 4\n"), "{said}");
    let shown = "<|im_start|>user\nh<|im_end|>\n<|im_start|>assistant\n«i<|im_end|>\n»\
        <|im_start|>user\nq0<|im_end|>\n<|im_start|>assistant\n«a0<|im_end|>\n»";
    assert!(said.contains(shown), "{said}");
    assert!(!said.contains("q1"), "one was asked for");
    assert!(!place.path("out/chat_template.jinja").exists(), "the model's own is with the tokenizer");
}

#[test]
fn what_is_trained_can_be_chosen() {
    let place = Place::new();
    let said = place.train("--show-examples 1 --mask-history");
    assert!(said.contains("assistant\ni<|im_end|>\n") && said.contains("«a0<|im_end|>\n»"), "{said}");
    let said = place.train("--show-examples 1 --train-on-prompt");
    assert!(said.contains("«<|im_start|>user\nh"), "{said}");
}

#[test]
fn a_template_by_name_goes_with_the_adapter() {
    let place = Place::new();
    let said = place.train("--template default --show-examples 1");
    assert!(said.contains("Human: h<|im_end|>\nAssistant:«i<|im_end|>\n»Human: q0<|im_end|>\n"), "{said}");
    let kept = fs_err::read_to_string(place.path("out/chat_template.jinja")).unwrap();
    assert!(kept.contains("Human: "), "{kept}");
    let checkpoint = fs_err::read_to_string(place.path("out/checkpoint-1/chat_template.jinja"));
    assert_eq!(checkpoint.unwrap(), kept);
}
