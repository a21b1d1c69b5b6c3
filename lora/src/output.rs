//! The output directory of a run, which grows while it trains: checkpoints and logs, and at the
//! end the adapter and the mark that it is complete.

use std::path::Path;

use common::cli::{made_otherwise, note, recipe_of};
use common::{Context, Result, error};
use serde_json::Value;

use crate::checkpoint;
use crate::config::Config;

/// Whether the same run has been completed before.
pub fn is_complete(config: &Config, recipe: &Value) -> Result<bool> {
    if config.force {
        return Ok(false);
    }
    match recipe_of(&config.output) {
        Some(made) if made == *recipe => {
            note(format_args!("{} is already trained; --force trains it again", config.output.display()));
            Ok(true)
        }
        Some(_) => Err(made_otherwise(&config.output)),
        None => Ok(false),
    }
}

/// Makes the directory ready, and keeps other runs out of it while the lock lives. The kernel frees
/// the lock when a process dies.
pub fn prepare(config: &Config) -> Result<std::fs::File> {
    let output = config.output.as_path();
    fs_err::create_dir_all(output)?;
    let lock = std::fs::File::create(output.join("lora-train.lock"))
        .with_context(|| format!("cannot write into {}", output.display()))?;
    lock.try_lock().map_err(|_| {
        error!("another process is training into {}", output.display())
            .hint("wait for it, or choose another name with -o")
    })?;
    let checkpoints = checkpoint::list(output);
    match checkpoints.last() {
        Some(_) if config.force => clear(output)?,
        Some((step, _)) if !config.resume => {
            return Err(error!("{} holds an unfinished run of {step} steps", output.display())
                .hint("--resume continues it, --force begins anew"));
        }
        None if config.force => clear(output)?,
        _ => {}
    }
    Ok(lock)
}

/// Removes what a run of ours writes, and nothing else.
fn clear(output: &Path) -> Result<()> {
    for (_, checkpoint) in checkpoint::list(output) {
        fs_err::remove_dir_all(checkpoint)?;
    }
    for file in ["made-by.json", "adapter_model.safetensors", "adapter_config.json", "trainer_log.jsonl"] {
        let path = output.join(file);
        if path.exists() {
            fs_err::remove_file(path)?;
        }
    }
    Ok(())
}
