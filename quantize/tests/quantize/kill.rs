//! Runs that are killed at any moment: what has its final name is whole, and the same command
//! gives the bytes of a run that was never disturbed.

use std::fs;
use std::path::Path;
use std::process::Command;

use common::checkpoint::{Dtype, INDEX, Index, Tensor, sharded_name, write_file};
use tests::kill::kill_and_run_again;

const SHARDS: usize = 4;

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
    command.current_dir(parent).args(["source", "-q", "-o", output]);
    command
}

#[test]
fn killed_at_any_moment_and_run_again() {
    let parent = tempfile::tempdir().unwrap();
    make_model(&parent.path().join("source"));
    kill_and_run_again(parent.path(), |output| quantize(parent.path(), output));
}
