//! `checkpoint-N`: a complete PEFT adapter, and all that continuing the run bit for bit needs.

use std::path::{Path, PathBuf};

use common::adapter::{Adapter, AdapterConfig};
use common::checkpoint::{Checkpoint, write_file};
use common::cli::{self, Begun, OutputDirectory, recipe_of};
use common::kernels::adamw::Moments;
use common::model::Model;
use common::{Context, Result, error};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Begin, Config};
use crate::record::History;
use crate::scaler::LossScaler;

const OPTIMIZER: &str = "optimizer.safetensors";
const PROGRESS: &str = "progress.json";
/// In front of the step of a checkpoint that is being removed.
const LEAVING: &str = ".removed-checkpoint-";

/// Where a run stands after some steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// Steps taken.
    pub step: u64,
    /// The logs so far.
    pub history: History,
    /// Of a run in fp16.
    pub scaler: Option<LossScaler>,
}

/// What a checkpoint is written from.
pub struct State<'a> {
    /// With the adapters' values.
    pub model: &'a Model,
    /// Of the adapter.
    pub adapter: &'a AdapterConfig,
    /// Of the optimizer.
    pub moments: &'a Moments,
    /// Where the run stands.
    pub progress: Progress,
    /// transformers' `trainer_state.json`.
    pub trainer_state: &'a Value,
    /// What the run's result depends on.
    pub recipe: &'a Value,
}

/// Writes `output/checkpoint-N`, whole or not at all.
pub fn save(output: &Path, model: &Path, template: Option<&str>, state: &State<'_>) -> Result<PathBuf> {
    let path = output.join(format!("checkpoint-{}", state.progress.step));
    let begun = OutputDirectory::begin(&path, true, "lora-train", state.recipe.clone())?;
    let Begun::New(directory) = begun else { return Ok(path) };
    save_adapter(directory.path(), model, template, state.model, state.adapter)?;
    write_file(&directory.path().join(OPTIMIZER), &state.moments.to_tensors()?)?;
    write_json(&directory.path().join("trainer_state.json"), state.trainer_state)?;
    write_json(&directory.path().join(PROGRESS), &serde_json::to_value(&state.progress)?)?;
    directory.commit()
}

/// Writes the adapter and, beside it, the tokenizer and the chat template it was trained with:
/// those of `base`, or `template`.
pub fn save_adapter(
    directory: &Path,
    base: &Path,
    template: Option<&str>,
    model: &Model,
    config: &AdapterConfig,
) -> Result<()> {
    model.adapter(config.clone())?.save(directory)?;
    for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]
    {
        let source = base.join(file);
        if source.exists() {
            fs_err::copy(source, directory.join(file))?;
        }
    }
    if let Some(template) = template {
        fs_err::write(directory.join("chat_template.jinja"), template)?;
    }
    Ok(())
}

/// Writes indented JSON, whole or not at all.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    cli::write_file(path, &(serde_json::to_string_pretty(value)? + "\n"))
}

/// Removes the oldest checkpoints beyond `limit`, but never `kept` nor the last.
pub fn rotate(output: &Path, limit: usize, kept: Option<u64>) -> Result<()> {
    let checkpoints = list(output);
    let last = checkpoints.last().map(|(step, _)| *step);
    let surplus = checkpoints.len().saturating_sub(limit);
    let can_go = |step: u64| Some(step) != kept && Some(step) != last;
    for (step, path) in checkpoints.into_iter().filter(|(step, _)| can_go(*step)).take(surplus) {
        // Under its name there is a whole checkpoint or none.
        let leaving = output.join(format!("{LEAVING}{step}"));
        fs_err::rename(path, &leaving)?;
        fs_err::remove_dir_all(leaving)?;
    }
    Ok(())
}

/// Removes what a run that was killed in [`rotate`], or while it wrote a file, has left.
pub fn remove_leftovers(output: &Path) -> Result<()> {
    for entry in fs_err::read_dir(output)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_partial = name.starts_with("checkpoint-") && name.ends_with(".partial");
        if path.is_dir() && (name.starts_with(LEAVING) || is_partial) {
            fs_err::remove_dir_all(path)?;
        } else if path.is_file() && name.starts_with(cli::TEMPORARY) {
            fs_err::remove_file(path)?;
        }
    }
    Ok(())
}

/// The checkpoints in `output`, by their steps.
pub fn list(output: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs_err::read_dir(output) else { return Vec::new() };
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    found.sort();
    found
}

/// The checkpoint that the run continues from, if it continues one.
pub fn to_resume(config: &Config) -> Result<Option<PathBuf>> {
    match &config.begin {
        Begin::New | Begin::Overwriting | Begin::Forced => Ok(None),
        Begin::ResumedFrom(path) => Ok(Some(path.clone())),
        Begin::Resumed => match list(&config.output).pop() {
            Some((_, path)) => Ok(Some(path)),
            None => {
                Err(error!("no checkpoint in {}", config.output.display()).hint("begin without --resume"))
            }
        },
    }
}

/// Where the run of a checkpoint stands, which must be this run.
pub fn progress(path: &Path, recipe: &Value) -> Result<Progress> {
    same_run(path, recipe)?;
    serde_json::from_str(&fs_err::read_to_string(path.join(PROGRESS))?)
        .with_context(|| path.join(PROGRESS).display().to_string())
}

/// Puts the model and the optimizer back where the checkpoint of `step` left them. `moments` are those of a
/// run that begins.
pub fn load(path: &Path, step: u64, model: &mut Model, moments: &mut Moments) -> Result<()> {
    model.set_adapter(&Adapter::load(path)?).with_context(|| path.display().to_string())?;
    let saved = Checkpoint::open_file(&path.join(OPTIMIZER))?;
    moments.load(&saved, model.device()).with_context(|| path.join(OPTIMIZER).display().to_string())?;
    moments.steps = step;
    Ok(())
}

/// A run continues only under the settings and data it began with.
fn same_run(path: &Path, recipe: &Value) -> Result<()> {
    let Some(saved) = recipe_of(path) else {
        return Err(error!("{} is not a complete checkpoint", path.display())
            .hint("remove it and --resume from the one before, or begin anew with --force"));
    };
    let differences: Vec<String> = recipe
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| saved.get(key.as_str()) != Some(value))
        .map(|(key, value)| match key.as_str() {
            "examples" => "the examples are others: data, tokenizer, template, cutoff_len or what is \
                           trained of them has changed"
                .to_owned(),
            key => format!("{key} was {}, now {value}", saved.get(key).unwrap_or(&Value::Null)),
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(error!("cannot resume {} under other settings: {}", path.display(), differences.join("; "))
        .hint("use the settings it began with, or begin anew with --force or another -o"))
}
