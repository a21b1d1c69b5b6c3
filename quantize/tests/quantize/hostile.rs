//! Inputs that are not what they should be, and a stderr that takes nothing.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use common::checkpoint::{Checkpoint, Dtype, INDEX, Index, Tensor, write_file};
use serde_json::json;
use tests::hostile::{
    cut, end, refuses, senseless_configs, wait_until_mapped, with_impostors, with_key, without_stderr,
};

fn quantize(parent: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantize"));
    command.current_dir(parent).args(["model", "-o", "q"]);
    command
}

#[test]
fn files_of_another_kind_are_refused_by_name() {
    let parent = tempfile::tempdir().unwrap();
    let model = parent.path().join("model");
    tests::tiny_model::write(&model, 1);
    for name in ["config.json", "model.safetensors"] {
        with_impostors(&model.join(name), |_| refuses(&mut quantize(parent.path()), name));
    }
    fs::rename(model.join("model.safetensors"), model.join("one.safetensors")).unwrap();
    let weight_map = [("model.norm.weight".into(), "one.safetensors".into())].into();
    fs::write(model.join(INDEX), Index { weight_map, ..Index::default() }.to_json().unwrap()).unwrap();
    with_impostors(&model.join(INDEX), |_| refuses(&mut quantize(parent.path()), INDEX));
    assert!(!parent.path().join("q").exists());
}

#[test]
fn a_made_by_json_of_another_kind_is_no_result_of_ours() {
    let parent = tempfile::tempdir().unwrap();
    tests::tiny_model::write(&parent.path().join("model"), 1);
    let made_by = parent.path().join("q/made-by.json");
    fs::create_dir(parent.path().join("q")).unwrap();
    fs::write(&made_by, "{}").unwrap();
    with_impostors(&made_by, |_| refuses(&mut quantize(parent.path()), "q"));
    for text in ["[]", "\"text\"", "1", "null", "{"] {
        fs::write(&made_by, text).unwrap();
        refuses(&mut quantize(parent.path()), "q");
    }
}

#[test]
fn configs_that_no_model_has_are_refused_by_key() {
    let parent = tempfile::tempdir().unwrap();
    let config = parent.path().join("model/config.json");
    tests::tiny_model::write(&parent.path().join("model"), 1);
    let dtypes = [("torch_dtype", json!("nonsense")), ("dtype", json!(16))];
    for (key, value) in senseless_configs().into_iter().chain(dtypes) {
        with_key(&config, key, &value, || {
            refuses(&mut quantize(parent.path()), key.trim_start_matches("torch_"))
        });
    }
    for text in ["[]", "null", "{", &"[".repeat(100_000)] {
        fs::write(&config, text).unwrap();
        refuses(&mut quantize(parent.path()), "config.json");
    }
}

#[test]
fn linear_weights_that_are_no_numbers_are_refused_by_name() {
    let parent = tempfile::tempdir().unwrap();
    let model = parent.path().join("model");
    tests::tiny_model::write(&model, 1);
    let name = "model.layers.0.mlp.up_proj.weight";
    for (dtype, len) in
        [(Dtype::BOOL, 6), (Dtype::F4, 3), (Dtype::F8_E4M3, 6), (Dtype::I64, 48), (Dtype::F64, 48)]
    {
        let tensor = Tensor { name: name.into(), dtype, shape: vec![2, 3], bytes: vec![0; len].into() };
        write_file(&model.join("model.safetensors"), &[tensor]).unwrap();
        refuses(&mut quantize(parent.path()), name);
    }
}

#[test]
fn a_file_that_is_cut_while_it_is_read_is_an_error_and_leaves_no_result() {
    let parent = tempfile::tempdir().unwrap();
    let model = parent.path().join("model");
    tests::tiny_model::write(&model, 1);
    // Large enough that it takes a while.
    let file = model.join("model.safetensors");
    let mut tensors: Vec<Tensor> = Checkpoint::open(&model).unwrap().tensors().collect();
    tensors.push(Tensor {
        name: "large".into(),
        dtype: Dtype::U16,
        shape: vec![1 << 26],
        bytes: vec![0; 1 << 27].into(),
    });
    write_file(&file, &tensors).unwrap();
    drop(tensors);
    let whole = fs::read(&file).unwrap();
    for rewritten in [false, true] {
        let mut child = quantize(parent.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until_mapped(&mut child, &file);
        match rewritten {
            // In place, as long as before.
            true => tests::hostile::while_stopped(&child, || fs::write(&file, &whole).unwrap()),
            false => cut(&child, &file),
        }
        let ended = end(child);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let expected =
            "model.safetensors: the file changed while it was read\nhint: wait until nothing writes";
        assert!(ended.stderr.contains(expected), "{ended:?}");
        assert!(!parent.path().join("q").exists());
        File::options().write(true).open(&file).unwrap().set_len(whole.len() as u64).unwrap();
    }
}

#[test]
fn what_cannot_be_said_is_not_said() {
    let parent = tempfile::tempdir().unwrap();
    tests::tiny_model::write(&parent.path().join("model"), 1);
    for (what, code, stdout) in without_stderr(|| {
        let mut command = quantize(parent.path());
        command.arg("--force");
        command
    }) {
        assert_eq!((code, stdout.as_str()), (Some(0), "q\n"), "{what}");
    }
    fs::remove_file(parent.path().join("model/config.json")).unwrap();
    for (what, code, _) in without_stderr(|| quantize(parent.path())) {
        assert_eq!(code, Some(1), "{what}");
    }
}
