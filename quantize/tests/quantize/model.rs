//! A small model in two files, and the tool that quantizes it.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::checkpoint::{Dtype, INDEX, Index, Tensor, sharded_name, write_file};
use tests::dir::Dir;

pub(crate) const Q: &str = "model.layers.0.self_attn.q_proj.weight";
pub(crate) const UP: &str = "model.layers.0.mlp.up_proj.weight";
pub(crate) const NORM: &str = "model.norm.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// The tool, which runs in a directory.
pub(crate) fn quantize(parent: &Dir) -> Command {
    let mut command = Command::cargo_bin("quantize").unwrap();
    command.current_dir(parent.path(""));
    command
}

pub(crate) fn weight(name: &str, shape: [usize; 2]) -> Tensor {
    let bytes = (0..shape[0] * shape[1])
        .flat_map(|i| {
            let value = ((i * 7919 + name.len() * 31) % 2003) as f32 / 1000.0 - 1.0;
            ((value.to_bits() >> 16) as u16).to_le_bytes()
        })
        .collect::<Vec<u8>>();
    Tensor { name: name.into(), dtype: Dtype::BF16, shape: shape.to_vec(), bytes: bytes.into() }
}

pub(crate) const CONFIG: &str = r#"{"model_type": "qwen2", "torch_dtype": "bfloat16", "hidden_size": 96,
    "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 33,
    "max_position_embeddings": 16, "rms_norm_eps": 1e-6}"#;

pub(crate) fn tensors() -> Vec<Tensor> {
    vec![weight(Q, [48, 96]), weight(UP, [64, 96]), weight(NORM, [1, 96]), weight(HEAD, [33, 96])]
}

/// A model in two files, `source` below a directory of its own.
pub(crate) fn model() -> (Dir, PathBuf) {
    let parent = Dir::new();
    let source = parent.make("source");
    parent.write("source/config.json", CONFIG);
    parent.write("source/tokenizer.json", "{}");
    parent.write("source/README.md", "about");
    let mut index = Index::default();
    for (number, part) in tensors().chunks(2).enumerate() {
        let file = sharded_name(number + 1, 2);
        write_file(&source.join(&file), part).unwrap();
        for tensor in part {
            index.weight_map.insert(tensor.name.clone(), file.clone());
        }
    }
    parent.write(&format!("source/{INDEX}"), index.to_json().unwrap());
    (parent, source)
}

pub(crate) fn stderr_of(assert: &assert_cmd::assert::Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

/// Writes the model's tensors under other names, in one file.
pub(crate) fn rename(source: &Path, rename: &dyn Fn(&str) -> String) {
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().contains("model") {
            fs::remove_file(path).unwrap();
        }
    }
    let renamed: Vec<Tensor> =
        tensors().into_iter().map(|tensor| Tensor { name: rename(&tensor.name), ..tensor }).collect();
    write_file(&source.join("model.safetensors"), &renamed).unwrap();
}
