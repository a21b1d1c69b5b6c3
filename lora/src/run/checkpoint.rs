//! `checkpoint-N`: a complete PEFT adapter, and everything that is needed to continue the run bit for bit.

use std::path::{Path, PathBuf};

use common::adapter::{Adapter, AdapterConfig};
use common::checkpoint::{Checkpoint, Companions, write_file};
use common::cli::{self, GrowingDirectory, recipe_of};
use common::kernels::adamw::Moments;
use common::model::Model;
use common::text::ending;
use common::text::files::CHAT_TEMPLATE;
use common::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::recipe::TOOL;
use crate::data::Texts;
use crate::logs::history::History;
use crate::run::scaler::LossScaler;

/// The name of the file of the optimizer's moments.
const OPTIMIZER: &str = "optimizer.safetensors";
/// The name of the file of [`Progress`].
pub(super) const PROGRESS: &str = "progress.json";
/// The name of transformers' file of the state of a run.
pub(super) const TRAINER_STATE: &str = "trainer_state.json";

/// The progress of a run after some steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// The number of steps taken.
    pub step: u64,
    /// The logs so far.
    pub history: History,
    /// The loss scale of a run in fp16.
    pub scaler: Option<LossScaler>,
    /// The number of devices that trained together.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub ranks: usize,
}

fn one() -> usize {
    1
}

fn is_one(ranks: &usize) -> bool {
    *ranks == 1
}

/// A number of devices in words.
pub fn devices(ranks: usize) -> String {
    if ranks == 1 { "one device".to_owned() } else { format!("{ranks} devices") }
}

/// Everything that a checkpoint is written from.
pub struct State<'a> {
    /// The model with the adapters.
    pub model: &'a Model,
    /// PEFT's configuration of the adapters.
    pub adapter: &'a AdapterConfig,
    /// The moments of the optimizer.
    pub moments: &'a Moments,
    /// The progress of the run.
    pub progress: Progress,
    /// transformers' `trainer_state.json`.
    pub trainer_state: &'a Value,
    /// The recipe of the run.
    pub recipe: &'a Value,
}

/// Writes `checkpoint-N` into the output, whole or not at all.
pub fn save(
    output: &mut GrowingDirectory,
    model: &Path,
    texts: &Texts,
    state: &State<'_>,
) -> Result<PathBuf> {
    let stage = output.stage()?;
    save_adapter(&stage, model, texts, state.model, state.adapter)?;
    write_file(&stage.join(OPTIMIZER), &state.moments.to_tensors()?)?;
    write_json(&stage.join(TRAINER_STATE), state.trainer_state)?;
    write_json(&stage.join(PROGRESS), &serde_json::to_value(&state.progress)?)?;
    output.place_result(&name(state.progress.step), state.recipe.clone())
}

/// The name of the checkpoint after `step` steps.
fn name(step: u64) -> String {
    format!("checkpoint-{step}")
}

/// Writes the adapter into a new directory and, beside it, the text files that it was trained with: those of
/// `base`, with the template and the end token of `texts`.
pub fn save_adapter(
    directory: &Path,
    base: &Path,
    texts: &Texts,
    model: &Model,
    config: &AdapterConfig,
) -> Result<()> {
    model.adapter(config.clone())?.save(directory)?;
    for file in Companions::of_text(base)?.files {
        if texts.template.is_none() || !file.name.ends_with(".jinja") {
            file.copy(directory)?;
        }
    }
    if let Some(template) = &texts.template {
        cli::write_file(&directory.join(CHAT_TEMPLATE), template)?;
    }
    let Some((id, token)) = &texts.end else { return Ok(()) };
    ending::name_in_tokenizer(directory, token)?;
    ending::name_in_generation(base, directory, *id)
}

/// Writes indented JSON, whole or not at all.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    cli::write_file(path, &(serde_json::to_string_pretty(value)? + "\n"))
}

/// Removes the oldest checkpoints in `path` beyond `limit`, but neither that of step `kept` nor the last.
pub fn rotate(output: &mut GrowingDirectory, path: &Path, limit: usize, kept: Option<u64>) -> Result<()> {
    let checkpoints = list(path);
    let last = checkpoints.last().map(|(step, _)| *step);
    let surplus = checkpoints.len().saturating_sub(limit);
    let can_go = |step: u64| Some(step) != kept && Some(step) != last;
    let steps = checkpoints.into_iter().map(|(step, _)| step);
    steps.filter(|step| can_go(*step)).take(surplus).try_for_each(|step| output.remove_result(&name(step)))
}

/// The checkpoints in `output` that this tool wrote, in the order of their steps.
pub fn list(output: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs_err::read_dir(output) else { return Vec::new() };
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let step = entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            let is_ours = entry.file_type().ok()?.is_dir() && recipe_of(&entry.path(), TOOL).is_some();
            is_ours.then(|| (step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Gives the model and the optimizer the values that the checkpoint of `step` in `path` has.
pub fn load(path: &Path, step: u64, model: &mut Model, moments: &mut Moments) -> Result<()> {
    model.set_adapter(&Adapter::load(path)?).with_context(|| path.display().to_string())?;
    let saved = Checkpoint::open_file(&path.join(OPTIMIZER))?;
    moments.load(&saved, model.device()).with_context(|| path.join(OPTIMIZER).display().to_string())?;
    moments.steps = step;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `progress.json` of a checkpoint that an earlier version wrote.
    const WRITTEN: &str = r#"{"step":3,"history":{"log_history":[{"epoch":0.5,"loss":1.25,"step":2}],"lines":[{"current_steps":2,"loss":1.25}],"loss_sum":4608308318706860032,"tokens_seen":77,"pending":[4598175219545276416,4591870180066957722]},"scaler":{"scale":32768.0,"steps":2,"overflows":1}}"#;

    #[test]
    fn what_a_checkpoint_says_of_its_run_keeps_its_bytes() {
        let progress: Progress = serde_json::from_str(WRITTEN).unwrap();
        assert_eq!((progress.step, progress.history.loss_sum, progress.history.tokens_seen), (3, 1.25, 77));
        assert_eq!(progress.history.pending, [0.25, 0.1]);
        assert_eq!(progress.scaler.map(|scaler| (scaler.scale(), scaler.overflows())), Some((32768.0, 1)));
        assert_eq!(serde_json::to_string(&progress).unwrap(), WRITTEN);
        let of_four = serde_json::to_string(&Progress { ranks: 4, ..progress }).unwrap();
        assert!(of_four.ends_with(r#","ranks":4}"#), "{of_four}");
    }
}
