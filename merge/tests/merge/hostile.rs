//! Inputs that are not what they should be, and a stderr that takes nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::checkpoint::{Checkpoint, Dtype, Tensor, write_file};
use serde_json::{Value, json};
use tests::hostile::{
    cut, end, refuses, senseless_configs, wait_until_mapped, with_impostors, with_key, without_stderr,
};

const UP: &str = "model.layers.0.mlp.up_proj";

/// A tensor of bytes of which no two neighbours are equal.
fn bytes(name: &str, dtype: Dtype, shape: &[usize]) -> Tensor {
    let bits: usize = shape.iter().product::<usize>() * dtype.bitsize();
    let bytes: Vec<u8> = (0..bits / 8).map(|i| (i * 37 % 251) as u8).collect();
    Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes: bytes.into() }
}

/// A base with one linear weight and `more`, and an adapter for it.
fn make(parent: &Path, more: Vec<Tensor>) {
    let (base, adapter) = (parent.join("base"), parent.join("adapter"));
    fs::create_dir_all(&base).unwrap();
    fs::create_dir_all(&adapter).unwrap();
    fs::write(base.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    let mut tensors = vec![Tensor::from_f32(format!("{UP}.weight"), vec![6, 4], &[0.5; 24])];
    tensors.extend(more);
    write_file(&base.join("model.safetensors"), &tensors).unwrap();
    let factor = |part: &str, shape: [usize; 2]| {
        Tensor::from_f32(
            format!("base_model.model.{UP}.{part}.weight"),
            shape.to_vec(),
            &vec![0.25; shape[0] * shape[1]],
        )
    };
    write_file(
        &adapter.join("adapter_model.safetensors"),
        &[factor("lora_A", [2, 4]), factor("lora_B", [6, 2])],
    )
    .unwrap();
    let config = r#"{"peft_type": "LORA", "base_model_name_or_path": "../base", "r": 2, "lora_alpha": 4}"#;
    fs::write(adapter.join("adapter_config.json"), config).unwrap();
}

fn merge(parent: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_merge"));
    command.current_dir(parent).args(["adapter", "-o", "merged"]);
    command
}

#[test]
fn tensors_of_every_dtype_are_copied_and_verified() {
    let parent = tempfile::tempdir().unwrap();
    let more = vec![
        bytes("flags", Dtype::BOOL, &[3, 5]),
        bytes("single", Dtype::BOOL, &[]),
        bytes("four", Dtype::F4, &[2, 3]),
        bytes("four.rows", Dtype::F4, &[2, 1]),
        bytes("six", Dtype::F6_E2M3, &[4, 3]),
        bytes("scales", Dtype::F8_E8M0, &[7]),
        bytes("eight", Dtype::F8_E4M3, &[2, 2]),
        bytes("wide", Dtype::F64, &[2, 3]),
        bytes("whole", Dtype::I64, &[5]),
        bytes("short", Dtype::I16, &[3, 2, 2]),
        bytes("complex", Dtype::C64, &[2, 2]),
        bytes("empty", Dtype::F32, &[0, 4]),
        bytes("empty.rows", Dtype::F32, &[4, 0]),
        bytes("halves", Dtype::BF16, &[3, 3]),
    ];
    make(parent.path(), more.clone());
    let ended = tests::hostile::run(merge(parent.path()).arg("--verify"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("rows computed again and found equal"), "{ended:?}");
    let merged = Checkpoint::open(&parent.path().join("merged")).unwrap();
    for tensor in more {
        let found = merged.tensor(&tensor.name).unwrap();
        assert!((found.dtype, &found.shape) == (tensor.dtype, &tensor.shape), "{}", tensor.name);
        assert!(*found.bytes == *tensor.bytes, "{}", tensor.name);
    }
    // 0.5 + 4 / 2 · (0.25 · 0.25 + 0.25 · 0.25)
    assert_eq!(merged.tensor(&format!("{UP}.weight")).unwrap().to_f32().unwrap(), [0.75; 24]);

    // Verifying again looks at the bytes of every one.
    for name in ["flags", "four", "whole", "wide"] {
        let tensors: Vec<Tensor> = merged.tensors().collect();
        let damaged = |tensor: &Tensor| match tensor.name == name {
            true => Tensor {
                bytes: tensor.bytes.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into(),
                ..tensor.clone()
            },
            false => tensor.clone(),
        };
        let tensors: Vec<Tensor> = tensors.iter().map(damaged).collect();
        write_file(&parent.path().join("merged/model.safetensors"), &tensors).unwrap();
        refuses(merge(parent.path()).arg("--verify"), &format!("tensor {name} differs from the base"));
    }
}

#[test]
fn a_replacement_of_another_kind_of_number_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    make(parent.path(), vec![bytes("lm_head.weight", Dtype::I64, &[2, 2])]);
    let file = parent.path().join("adapter/adapter_model.safetensors");
    let mut tensors: Vec<Tensor> = Checkpoint::open_file(&file).unwrap().tensors().collect();
    tensors.push(Tensor::from_f32("base_model.model.lm_head.weight", vec![2, 2], &[1.0; 4]));
    write_file(&file, &tensors).unwrap();
    refuses(&mut merge(parent.path()), "lm_head.weight as F32, the base as I64");
}

#[test]
fn files_of_another_kind_are_refused_by_name() {
    let parent = tempfile::tempdir().unwrap();
    make(parent.path(), Vec::new());
    for name in [
        "base/config.json",
        "base/model.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ] {
        let path = parent.path().join(name);
        let name = path.file_name().unwrap().to_str().unwrap();
        with_impostors(&path, |_| refuses(merge(parent.path()).args(["--base", "base"]), name));
    }
    let yaml = parent.path().join("export.yaml");
    fs::write(&yaml, "adapter_name_or_path: adapter\n").unwrap();
    with_impostors(&yaml, |what| {
        if what != "a directory" {
            let mut command = Command::new(env!("CARGO_BIN_EXE_merge"));
            refuses(command.current_dir(parent.path()).arg("export.yaml"), "export.yaml");
        }
    });
    assert!(!parent.path().join("merged").exists());
}

#[test]
fn senseless_values_are_refused_by_key() {
    let parent = tempfile::tempdir().unwrap();
    make(parent.path(), Vec::new());
    let config = parent.path().join("base/config.json");
    for (key, value) in senseless_configs() {
        with_key(&config, key, &value, || refuses(&mut merge(parent.path()), key));
    }
    let many: Value = (0..20_000)
        .map(|i| (format!("layers.{i}.q_proj"), json!(2)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    for (key, value, named) in [
        ("r", json!("two"), "adapter_config.json"),
        ("r", json!(u64::MAX), "rank 2, adapter_config.json says"),
        ("lora_alpha", json!(1e308), "alpha"),
        ("lora_dropout", json!(-1), "lora_dropout"),
        ("bias", json!(["none"]), "adapter_config.json"),
        ("target_modules", json!(7), "adapter_config.json"),
        ("init_lora_weights", json!({"x": 1}), "init_lora_weights"),
        ("rank_pattern", json!({"q_proj": 1.5}), "rank_pattern"),
        ("rank_pattern", json!({"(a{1000}){1000}": 2}), "a{1000}"),
        ("alpha_pattern", many, "20000 patterns"),
        ("alpha_pattern", json!({"(x+x+)+y": "z"}), "\"z\""),
    ] {
        let config = parent.path().join("adapter/adapter_config.json");
        with_key(&config, key, &value, || refuses(&mut merge(parent.path()), named));
    }
}

#[test]
fn a_base_that_is_cut_while_it_is_read_is_an_error_and_leaves_no_result() {
    let parent = tempfile::tempdir().unwrap();
    make(
        parent.path(),
        vec![Tensor {
            name: "large".into(),
            dtype: Dtype::U16,
            shape: vec![1 << 26],
            bytes: vec![0; 1 << 27].into(),
        }],
    );
    let file = parent.path().join("base/model.safetensors");
    let mut child = merge(parent.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_mapped(&mut child, &file);
    cut(&child, &file);
    let ended = end(child);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("model.safetensors: the file changed while it was read\nhint: "),
        "{ended:?}"
    );
    assert!(!parent.path().join("merged").exists());
}

#[test]
fn what_cannot_be_said_is_not_said() {
    let parent = tempfile::tempdir().unwrap();
    make(parent.path(), Vec::new());
    for (what, code, stdout) in without_stderr(|| {
        let mut command = merge(parent.path());
        command.args(["--force", "-v"]);
        command
    }) {
        assert_eq!((code, stdout.as_str()), (Some(0), "merged\n"), "{what}");
    }
}
