//! A small model, its 4-bit twin and an adapter in a working directory, and what merging must make of them.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::checkpoint::{Checkpoint, Dtype, Tensor, cast_from_f32, write_file};
use common::nf4::{Quantized, Scheme};
use tests::dir::Dir;

pub(crate) const Q: &str = "model.layers.0.self_attn.q_proj";
pub(crate) const UP: &str = "model.layers.0.mlp.up_proj";
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

pub(crate) fn merge() -> Command {
    Command::cargo_bin("merge").unwrap()
}

/// Numbers that look like weights, the same for the same seed.
pub(crate) fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 20_011) as f32 / 10_000.0 - 1.0).collect()
}

pub(crate) fn bf16(name: &str, shape: &[usize], seed: usize) -> Tensor {
    let values = numbers(shape.iter().product(), seed);
    let mut bytes = vec![0; 2 * values.len()];
    cast_from_f32(Dtype::BF16, &values, &mut bytes).unwrap();
    Tensor { name: name.into(), dtype: Dtype::BF16, shape: shape.to_vec(), bytes: bytes.into() }
}

/// Two linear weights, a bias, and a table that is also the head.
pub(crate) fn weights() -> Vec<Tensor> {
    vec![
        bf16(EMBEDDING, &[40, 24], 1),
        bf16(&format!("{Q}.weight"), &[32, 24], 2),
        bf16(&format!("{Q}.bias"), &[32], 3),
        bf16(&format!("{UP}.weight"), &[56, 24], 4),
    ]
}

/// A directory with a model `base`, its 4-bit twin `nf4`, and an adapter `adapter` of `nf4`.
pub(crate) fn workplace() -> Dir {
    let parent = Dir::new();
    let config = r#"{"model_type": "qwen2", "tie_word_embeddings": true, "torch_dtype": "bfloat16"}"#;
    for name in ["base", "nf4"] {
        let directory = parent.path(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("config.json"), config).unwrap();
        fs::write(directory.join("tokenizer_config.json"), "{}").unwrap();
    }
    write_file(&parent.path("base/model.safetensors"), &weights()).unwrap();
    let quantized: Vec<Tensor> = weights()
        .into_iter()
        .flat_map(|tensor| match tensor.name.contains("proj.weight") {
            true => {
                Quantized::quantize(&tensor, Scheme::default()).unwrap().to_tensors(&tensor.name).unwrap()
            }
            false => vec![tensor],
        })
        .collect();
    write_file(&parent.path("nf4/model.safetensors"), &quantized).unwrap();
    let config = config.replace('}', r#", "quantization_config": {"quant_method": "bitsandbytes"}}"#);
    parent.write("nf4/config.json", config);
    adapter(&parent.path("adapter"), "../nf4", r#""r": 4, "lora_alpha": 8"#, &[(Q, 4), (UP, 4)], &[]);
    parent
}

/// Outputs of the linear weight of a module.
pub(crate) fn outputs(module: &str) -> usize {
    if module == UP {
        56
    } else if module == Q {
        32
    } else {
        40
    }
}

/// Writes an adapter with a rank for each module; `more` goes into the file as it is.
pub(crate) fn adapter(directory: &Path, base: &str, keys: &str, modules: &[(&str, usize)], more: &[Tensor]) {
    fs::create_dir_all(directory).unwrap();
    let config = format!(
        r#"{{"peft_type": "LORA", "base_model_name_or_path": "{base}", "target_modules": ["q_proj"], {keys}}}"#
    );
    fs::write(directory.join("adapter_config.json"), config).unwrap();
    let mut tensors = more.to_vec();
    for &(module, rank) in modules {
        let name = |part| format!("base_model.model.{module}.{part}.weight");
        let (a, b) = factors(module, rank);
        tensors.push(Tensor::from_f32(name("lora_A"), vec![rank, 24], &a));
        tensors.push(Tensor::from_f32(name("lora_B"), vec![outputs(module), rank], &b));
    }
    write_file(&directory.join("adapter_model.safetensors"), &tensors).unwrap();
}

pub(crate) fn factors(module: &str, rank: usize) -> (Vec<f32>, Vec<f32>) {
    (numbers(rank * 24, 5 + module.len()), numbers(outputs(module) * rank, 6 + module.len()))
}

/// `weight + scale · B · A` in f64.
pub(crate) fn folded_exactly(weight: &[f32], updates: &[(&str, usize, f64)]) -> Vec<f32> {
    let mut sums: Vec<f64> = weight.iter().map(|&value| f64::from(value)).collect();
    for &(module, rank, scale) in updates {
        let (a, b) = factors(module, rank);
        for (i, sum) in sums.iter_mut().enumerate() {
            let (row, column) = (i / 24, i % 24);
            let product = (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * 24 + column]));
            *sum += scale * product.sum::<f64>();
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// [`folded_exactly`], rounded to bf16.
pub(crate) fn folded(weight: &[f32], updates: &[(&str, usize, f64)]) -> Vec<f32> {
    let sums = folded_exactly(weight, updates);
    let mut bytes = vec![0; 2 * sums.len()];
    cast_from_f32(Dtype::BF16, &sums, &mut bytes).unwrap();
    Tensor { name: "".into(), dtype: Dtype::BF16, shape: vec![sums.len()], bytes: bytes.into() }
        .to_f32()
        .unwrap()
}

/// Equal but for one step of bf16 in the rare number that lies in the middle of two.
pub(crate) fn assert_folded(directory: &Path, name: &str, expected: &[f32]) {
    let found = Checkpoint::open(directory).unwrap().tensor(name).unwrap();
    assert_eq!(found.dtype, Dtype::BF16);
    for (i, (found, expected)) in found.to_f32().unwrap().iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= expected.abs() / 128.0,
            "{name} [{i}]: {found}, expected {expected}"
        );
    }
    let differing = found.to_f32().unwrap().iter().zip(expected).filter(|(a, b)| a != b).count();
    assert!(differing * 100 <= expected.len(), "{name}: {differing} of {} numbers differ", expected.len());
}

pub(crate) fn original(name: &str) -> Vec<f32> {
    weights().into_iter().find(|tensor| tensor.name == name).unwrap().to_f32().unwrap()
}

/// A weight of `nf4` as a model that computes in f32 sees it.
pub(crate) fn dequantized(parent: &Dir, name: &str) -> Vec<f32> {
    let checkpoint = Checkpoint::open(&parent.path("nf4")).unwrap();
    Quantized::load(&checkpoint, name).unwrap().unwrap().with_dtype(Dtype::F32).dequantize()
}

pub(crate) fn run(parent: &Dir, arguments: &[&str]) -> assert_cmd::assert::Assert {
    merge().current_dir(parent.path("")).args(arguments).assert()
}

pub(crate) fn stderr_of(assert: &assert_cmd::assert::Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

pub(crate) fn config_of(directory: PathBuf) -> serde_json::Value {
    serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap()
}

pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
