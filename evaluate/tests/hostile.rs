//! Models that are not what they should be or change meanwhile, and a stderr that takes nothing.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::hostile::{
    Ended, cut, end, refuses, run, senseless_configs, wait_until_mapped, while_stopped, with_impostors,
    with_key, without_stderr,
};

/// A model, and rows to compute a loss of.
fn place(rows: usize) -> TempDir {
    let parent = tempfile::tempdir().unwrap();
    tests::tiny_model::write(&parent.path().join("model"), 3);
    let row = |i: usize| json!({"instruction": format!("Say {i}"), "output": "a word and another"});
    fs::write(parent.path().join("rows.json"), (0..rows).map(row).collect::<Value>().to_string()).unwrap();
    parent
}

fn evaluate(parent: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evaluate"));
    command.current_dir(parent).args(["model", "--loss", "rows.json", "-o", "loss.json"]);
    command
}

#[test]
fn files_of_another_kind_are_refused_by_name() {
    let parent = place(2);
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        with_impostors(&parent.path().join("model").join(name), |_| {
            refuses(&mut evaluate(parent.path()), name);
        });
    }
    fs::write(parent.path().join("a.json"), "{}").unwrap();
    with_impostors(&parent.path().join("a.json"), |_| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evaluate"));
        refuses(command.current_dir(parent.path()).args(["--compare", "a.json", "a.json"]), "a.json");
    });
    assert!(!parent.path().join("loss.json").exists());
}

#[test]
fn configs_that_no_model_has_are_refused_by_key() {
    let parent = place(2);
    for (key, value) in senseless_configs() {
        with_key(&parent.path().join("model/config.json"), key, &value, || {
            refuses(&mut evaluate(parent.path()), key);
        });
    }
}

#[test]
fn a_loss_of_weights_that_change_is_no_answer() {
    let parent = place(1000);
    let file = parent.path().join("model/model.safetensors");
    let whole = fs::read(&file).unwrap();
    for in_place in [true, false] {
        let mut child =
            evaluate(parent.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until_mapped(&mut child, &file);
        match in_place {
            true => while_stopped(&child, || fs::write(&file, &whole).unwrap()),
            false => cut(&child, &file),
        }
        let mut stdout = child.stdout.take().unwrap();
        let Ended { code, stderr } = end(child);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("model.safetensors: the file changed while it was read\nhint: "), "{stderr}");
        assert_eq!(std::io::read_to_string(&mut stdout).unwrap(), "");
        assert!(!parent.path().join("loss.json").exists());
        fs::write(&file, &whole).unwrap();
    }
    // A new file under the old name is none of its business.
    let mut child = evaluate(parent.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_mapped(&mut child, &file);
    while_stopped(&child, || {
        fs::write(parent.path().join("new"), "other").unwrap();
        fs::rename(parent.path().join("new"), &file).unwrap();
    });
    let ended = end(child);
    assert!(!ended.stderr.contains("changed while"), "{ended:?}");
}

#[test]
fn what_cannot_be_said_is_not_said() {
    let parent = place(4);
    assert_eq!(run(&mut evaluate(parent.path())).code, Some(0));
    let spoken = fs::read(parent.path().join("loss.json")).unwrap();
    for (what, code, stdout) in without_stderr(|| {
        let mut command = evaluate(parent.path());
        command.args(["--force", "-v"]);
        command
    }) {
        assert_eq!(code, Some(0), "{what}");
        assert!(stdout.contains("model"), "{what}: {stdout}");
        assert!(fs::read(parent.path().join("loss.json")).unwrap() == spoken, "{what}");
    }
}
