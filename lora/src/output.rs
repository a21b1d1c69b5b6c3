//! The output directory of a run, which grows while it trains: checkpoints and logs, and at the
//! end the adapter and the mark that it is complete.

use std::path::Path;

use common::cli::{Lock, made_otherwise, note, recipe_of};
use common::{Result, error};
use serde_json::Value;

use crate::checkpoint;
use crate::config::{Begin, Config};

/// Files of a run beside its checkpoints.
const FILES: [&str; 11] = [
    "made-by.json",
    "adapter_model.safetensors",
    "adapter_config.json",
    "trainer_log.jsonl",
    "trainer_state.json",
    "training_args.yaml",
    "train_results.json",
    "eval_results.json",
    "all_results.json",
    "training_loss.png",
    "training_eval_loss.png",
];

/// Whether the same run has been completed before.
pub fn is_complete(config: &Config, recipe: &Value) -> Result<bool> {
    match (recipe_of(&config.output), &config.begin) {
        (None, _) | (_, Begin::Forced) => Ok(false),
        (Some(made), _) if made == *recipe => {
            note(format_args!("{} is already trained; --force trains it again", config.output.display()));
            Ok(true)
        }
        (Some(_), Begin::Overwriting) => Ok(false),
        (Some(_), _) => Err(made_otherwise(&config.output)),
    }
}

/// Makes the directory ready, and keeps other runs out of it while the lock lives.
pub fn prepare(config: &Config) -> Result<Lock> {
    let output = config.output.as_path();
    fs_err::create_dir_all(output)?;
    let lock = Lock::of(output)?;
    let is_finished = recipe_of(output).is_some();
    match (&config.begin, checkpoint::list(output).last()) {
        (Begin::Forced, _) => clear(output)?,
        (Begin::Overwriting, _) if is_finished => clear(output)?,
        (Begin::New | Begin::Overwriting, Some((step, _))) => {
            return Err(error!("{} holds an unfinished run of {step} steps", output.display())
                .hint("--resume continues it, --force begins anew"));
        }
        _ => checkpoint::remove_leftovers(output)?,
    }
    Ok(lock)
}

/// Removes what a run of ours writes, and nothing else. The mark that it is complete goes first.
fn clear(output: &Path) -> Result<()> {
    for path in FILES.map(|file| output.join(file)) {
        if path.exists() {
            fs_err::remove_file(path)?;
        }
    }
    for (_, checkpoint) in checkpoint::list(output) {
        fs_err::remove_dir_all(checkpoint)?;
    }
    checkpoint::remove_leftovers(output)
}
