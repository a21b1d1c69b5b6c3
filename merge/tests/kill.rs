//! Runs that are killed at any moment: what has its final name is whole, and the same command
//! gives the bytes of a run that was never disturbed.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::checkpoint::{Checkpoint, Dtype, Tensor, narrow, sharded_name, write_file};

const LAYERS: usize = 4;
const SHAPE: [usize; 2] = [1024, 512];
const RANK: usize = 8;
const KILLS: usize = 30;

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
    narrow(Dtype::BF16, &numbers(SHAPE[0] * SHAPE[1]), &mut bytes).unwrap();
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
    command
        .current_dir(parent)
        .args(["adapter", "-q", "--shard-size", "1MB", "-o", output])
        .stdout(Stdio::null());
    command
}

fn bytes_of(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().into(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn killed_at_any_moment_and_run_again() {
    let parent = tempfile::tempdir().unwrap();
    make(parent.path());
    let begun = Instant::now();
    assert!(merge(parent.path(), "undisturbed").status().unwrap().success());
    let whole = begun.elapsed();
    let expected = bytes_of(&parent.path().join("undisturbed"));

    let (output, partial) = (parent.path().join("m"), parent.path().join("m.partial"));
    let mut killed = 0;
    for kill in 0..KILLS {
        let mut run = merge(parent.path(), "m").spawn().unwrap();
        // Over the whole run and a little beyond, in no order.
        let moment = whole.mul_f64((kill * 17 % KILLS) as f64 / KILLS as f64 * 1.1);
        std::thread::sleep(moment.max(Duration::from_micros(500)));
        run.kill().unwrap();
        killed += usize::from(!run.wait().unwrap().success());
        if output.exists() {
            assert!(bytes_of(&output) == expected, "the final name stands for the whole");
            fs::remove_dir_all(&output).unwrap();
        } else if partial.exists() {
            for shard in 0..LAYERS {
                let file = partial.join(sharded_name(shard + 1, LAYERS));
                assert!(!file.exists() || Checkpoint::open_file(&file).is_ok(), "{} is half", file.display());
            }
        }
        // Every third is finished, the others are killed again where they are.
        if kill % 3 == 2 {
            assert!(merge(parent.path(), "m").status().unwrap().success());
            assert!(bytes_of(&output) == expected, "after kill {kill}");
            fs::remove_dir_all(&output).unwrap();
        }
    }
    assert!(killed > 0, "no run was killed before its end");
}
