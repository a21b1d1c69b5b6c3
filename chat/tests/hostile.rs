//! Models that are not what they should be or change while they answer, and a stderr that takes nothing.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;
use tests::hostile::{Ended, cut, end, refuses, senseless_configs, with_impostors, with_key, without_stderr};

/// A directory with a model in it.
fn place() -> TempDir {
    let parent = tempfile::tempdir().unwrap();
    tests::tiny_model::write(&parent.path().join("model"), 3);
    parent
}

fn chat(parent: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat"));
    command.current_dir(parent).args(arguments).args(["--max-new-tokens", "4"]);
    command
}

#[test]
fn files_of_another_kind_are_refused_by_name() {
    let parent = place();
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "model.safetensors",
    ] {
        with_impostors(&parent.path().join("model").join(name), |_| {
            refuses(&mut chat(parent.path(), &["model"]), name);
        });
    }
    fs::write(parent.path().join("infer.yaml"), "model_name_or_path: model\n").unwrap();
    with_impostors(&parent.path().join("infer.yaml"), |what| {
        if what != "a directory" {
            refuses(&mut chat(parent.path(), &["infer.yaml"]), "infer.yaml");
        }
    });
}

#[test]
fn configs_that_no_model_has_are_refused_by_key() {
    let parent = place();
    for (key, value) in senseless_configs() {
        with_key(&parent.path().join("model/config.json"), key, &value, || {
            refuses(&mut chat(parent.path(), &["model"]), key);
        });
    }
    for (key, value) in [
        ("temperature", json!("hot")),
        ("top_k", json!(-1)),
        ("top_p", json!(0)),
        ("eos_token_id", json!("x")),
    ] {
        with_key(&parent.path().join("model/generation_config.json"), key, &value, || {
            refuses(&mut chat(parent.path(), &["model"]), "generation_config.json");
        });
    }
}

#[test]
fn chat_ends_with_the_answer_before_the_change() {
    let parent = place();
    let mut child = chat(parent.path(), &["model", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let line = "[{\"role\": \"user\", \"content\": \"Hi\"}]\n";
    stdin.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    stdout.read_line(&mut answer).unwrap();
    assert!(answer.contains("assistant"), "{answer}");
    cut(&child, &parent.path().join("model/model.safetensors"));
    stdin.write_all(line.as_bytes()).unwrap();
    drop(stdin);
    let Ended { code, stderr } = end(child);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("model.safetensors: the file changed while it was read\nhint: "), "{stderr}");
    assert_eq!(std::io::read_to_string(stdout).unwrap(), "");
}

#[test]
fn what_cannot_be_said_is_not_said() {
    let parent = place();
    for (what, code, _) in without_stderr(|| chat(parent.path(), &["model", "-v"])) {
        assert_eq!(code, Some(0), "{what}");
    }
}
