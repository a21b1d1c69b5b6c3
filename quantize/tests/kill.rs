//! Runs that are killed at any moment: what has its final name is whole, and the same command
//! gives the bytes of a run that was never disturbed.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::checkpoint::{Checkpoint, Dtype, INDEX, Index, Tensor, sharded_name, write_file};

const SHARDS: usize = 4;
const KILLS: usize = 30;

fn make_model(directory: &Path) {
    fs::create_dir(directory).unwrap();
    let config = r#"{"model_type": "llama", "hidden_size": 512, "num_attention_heads": 4,
        "num_hidden_layers": 4, "intermediate_size": 2048, "vocab_size": 16,
        "max_position_embeddings": 16, "rms_norm_eps": 1e-6}"#;
    fs::write(directory.join("config.json"), config).unwrap();
    let mut index = Index::default();
    for shard in 0..SHARDS {
        let name = format!("model.layers.{shard}.mlp.up_proj.weight");
        let bytes: Vec<u8> = (0..2048 * 512_u32)
            .flat_map(|i| {
                let value = (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
                ((value.to_bits() >> 16) as u16).to_le_bytes()
            })
            .collect();
        let file = sharded_name(shard + 1, SHARDS);
        let tensor =
            Tensor { name: name.clone(), dtype: Dtype::BF16, shape: vec![2048, 512], bytes: bytes.into() };
        write_file(&directory.join(&file), &[tensor]).unwrap();
        index.weight_map.insert(name, file);
    }
    fs::write(directory.join(INDEX), index.to_json().unwrap()).unwrap();
}

fn quantize(parent: &Path, output: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantize"));
    command.current_dir(parent).args(["source", "-q", "-o", output]).stdout(Stdio::null());
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
    make_model(&parent.path().join("source"));
    let begun = std::time::Instant::now();
    assert!(quantize(parent.path(), "undisturbed").status().unwrap().success());
    let whole = begun.elapsed();
    let expected = bytes_of(&parent.path().join("undisturbed"));

    let (output, partial) = (parent.path().join("q"), parent.path().join("q.partial"));
    let mut killed = 0;
    for kill in 0..KILLS {
        let mut run = quantize(parent.path(), "q").spawn().unwrap();
        // Over the whole run and a little beyond, in no order.
        let moment = whole.mul_f64((kill * 17 % KILLS) as f64 / KILLS as f64 * 1.1);
        std::thread::sleep(moment.max(Duration::from_micros(500)));
        run.kill().unwrap();
        killed += usize::from(!run.wait().unwrap().success());
        if output.exists() {
            assert!(bytes_of(&output) == expected, "the final name stands for the whole");
            fs::remove_dir_all(&output).unwrap();
        } else if partial.exists() {
            for shard in 0..SHARDS {
                let file = partial.join(sharded_name(shard + 1, SHARDS));
                assert!(!file.exists() || Checkpoint::open_file(&file).is_ok(), "{} is half", file.display());
            }
        }
        // Every third is finished, the others are killed again where they are.
        if kill % 3 == 2 {
            assert!(quantize(parent.path(), "q").status().unwrap().success());
            assert!(bytes_of(&output) == expected, "after kill {kill}");
            fs::remove_dir_all(&output).unwrap();
        }
    }
    assert!(killed > 0, "no run was killed before its end");
}
