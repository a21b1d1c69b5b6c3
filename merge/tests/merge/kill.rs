//! Runs that are killed at any moment: what has its final name is whole, and the same command
//! gives the bytes of a run that was never disturbed.

use std::fs;
use std::path::Path;
use std::process::Command;

use common::checkpoint::{Dtype, Tensor, cast_from_f32, write_file};
use tests::kill::kill_and_run_again;

const LAYERS: usize = 4;
const SHAPE: [usize; 2] = [1024, 512];
const RANK: usize = 8;

fn numbers(count: usize) -> Vec<f32> {
    let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    (0..count).map(number).collect()
}

/// A base of one linear weight a layer, and an adapter for all of them.
fn make(parent: &Path) {
    let (base, adapter) = (parent.join("base"), parent.join("adapter"));
    fs::create_dir(&base).unwrap();
    fs::create_dir(&adapter).unwrap();
    fs::write(base.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    let mut bytes = vec![0; 2 * SHAPE[0] * SHAPE[1]];
    cast_from_f32(Dtype::BF16, &numbers(SHAPE[0] * SHAPE[1]), &mut bytes).unwrap();
    let (mut weights, mut factors) = (Vec::new(), Vec::new());
    for layer in 0..LAYERS {
        let module = format!("model.layers.{layer}.mlp.up_proj");
        weights.push(Tensor {
            name: format!("{module}.weight"),
            dtype: Dtype::BF16,
            shape: SHAPE.to_vec(),
            bytes: bytes.clone().into(),
        });
        for (part, shape) in [("lora_A", [RANK, SHAPE[1]]), ("lora_B", [SHAPE[0], RANK])] {
            let name = format!("base_model.model.{module}.{part}.weight");
            factors.push(Tensor::from_f32(name, shape.to_vec(), &numbers(shape[0] * shape[1])));
        }
    }
    write_file(&base.join("model.safetensors"), &weights).unwrap();
    write_file(&adapter.join("adapter_model.safetensors"), &factors).unwrap();
    let config = r#"{"peft_type": "LORA", "base_model_name_or_path": "../base", "r": 8, "lora_alpha": 16}"#;
    fs::write(adapter.join("adapter_config.json"), config).unwrap();
}

fn merge(parent: &Path, output: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_merge"));
    command.current_dir(parent).args(["adapter", "-q", "--shard-size", "1MB", "-o", output]);
    command
}

#[test]
fn killed_at_any_moment_and_run_again() {
    let parent = tempfile::tempdir().unwrap();
    make(parent.path());
    kill_and_run_again(parent.path(), |output| merge(parent.path(), output));
}
