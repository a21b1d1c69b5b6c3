//! `checkpoint-N`: a complete PEFT adapter, and all that continuing the run bit for bit needs.

use std::path::{Path, PathBuf};

use common::adapter::{Adapter, AdapterConfig};
use common::checkpoint::{Checkpoint, Companions, write_file};
use common::cli::{self, GrowingDirectory, note, recipe_of};
use common::kernels::adamw::Moments;
use common::model::Model;
use common::text::ending;
use common::text::files::CHAT_TEMPLATE;
use common::{Context, Result, error, files};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::recipe::TOOL;
use crate::config::{Begin, Config};
use crate::data::Texts;
use crate::logs::history::History;
use crate::run::scaler::LossScaler;
use crate::schedule::Length;

const OPTIMIZER: &str = "optimizer.safetensors";
const PROGRESS: &str = "progress.json";

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
    write_json(&stage.join("trainer_state.json"), state.trainer_state)?;
    write_json(&stage.join(PROGRESS), &serde_json::to_value(&state.progress)?)?;
    output.place_result(&name(state.progress.step), state.recipe.clone())
}

fn name(step: u64) -> String {
    format!("checkpoint-{step}")
}

/// Writes the adapter into a new directory and, beside it, the text files it was trained with: those of
/// `base`, but for what `texts` says.
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

/// Removes the oldest checkpoints in `path` beyond `limit`, but never `kept` nor the last.
pub fn rotate(output: &mut GrowingDirectory, path: &Path, limit: usize, kept: Option<u64>) -> Result<()> {
    let checkpoints = list(path);
    let last = checkpoints.last().map(|(step, _)| *step);
    let surplus = checkpoints.len().saturating_sub(limit);
    let can_go = |step: u64| Some(step) != kept && Some(step) != last;
    let steps = checkpoints.into_iter().map(|(step, _)| step);
    steps.filter(|step| can_go(*step)).take(surplus).try_for_each(|step| output.remove_result(&name(step)))
}

/// The checkpoints of ours in `output`, by their steps.
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

/// The checkpoint that the run continues from, if it continues one.
pub fn to_resume(config: &Config) -> Result<Option<PathBuf>> {
    match &config.begin {
        Begin::New | Begin::Overwriting | Begin::Forced => Ok(None),
        Begin::ResumedFrom(path) => Ok(Some(path.clone())),
        Begin::Resumed => match list(&config.output).pop() {
            Some((_, path)) => Ok(Some(path)),
            None if cli::is_unfinished(&config.output, TOOL) => {
                note(format_args!("no checkpoint in {} yet; beginning at step 0", config.output.display()));
                Ok(None)
            }
            None if recipe_of(&config.output, TOOL).is_some() => {
                let output = cli::quoted_path(&config.output);
                Err(error!("no checkpoint in {}, which is finished", config.output.display()).hint(
                    format_args!("--adapter-name-or-path {output} with another -o goes on from its adapter"),
                ))
            }
            None => {
                Err(error!("no checkpoint in {}", config.output.display()).hint("begin without --resume"))
            }
        },
    }
}

/// Where the run of a checkpoint stands, which must be this run, or one that ended there and was
/// shorter than this one of `total` steps.
pub fn progress(path: &Path, recipe: &Value, total: u64) -> Result<Progress> {
    let Some(saved) = recipe_of(path, TOOL) else {
        return Err(error!("{} is not a complete checkpoint", path.display())
            .hint("remove it and --resume from the one before, or begin anew with --force"));
    };
    let named = || path.join(PROGRESS).display().to_string();
    let progress: Progress = files::read_json(&path.join(PROGRESS), files::PROGRESS).with_context(named)?;
    let state: Value = files::read_json(&path.join("trainer_state.json"), files::PROGRESS)?;
    let is_end = state["max_steps"] == progress.step;
    if let Some((before, now)) = lengths(&saved, recipe).filter(|_| is_end) {
        if total < progress.step {
            return Err(error!(
                "{} has taken {} steps, {now} are {total}: there is nothing to continue",
                path.display(),
                progress.step
            )
            .hint("give a greater length, or train anew beside it with another -o"));
        }
        note(format_args!(
            "the run was of {before}, it goes on to {now}; the learning rate follows the new length"
        ));
        return Ok(progress);
    }
    same_run(path, &saved, recipe)?;
    Ok(progress)
}

/// How long two runs are, for people, where that is all they differ in.
pub fn lengths(saved: &Value, recipe: &Value) -> Option<(String, String)> {
    let without_length = |recipe: &Value| {
        let mut recipe = recipe.as_object().cloned().unwrap_or_default();
        recipe.retain(|key, _| !Length::KEYS.contains(&key.as_str()));
        recipe
    };
    if saved == recipe || without_length(saved) != without_length(recipe) {
        return None;
    }
    let length = |recipe: &Value| match recipe["max_steps"].as_u64() {
        Some(steps) => format!("{steps} steps"),
        None => format!("{} epochs", recipe["num_train_epochs"]),
    };
    Some((length(saved), length(recipe)))
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
fn same_run(path: &Path, saved: &Value, recipe: &Value) -> Result<()> {
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
    Err(error!("cannot resume {} under other settings: {}", path.display(), differences.join("; ")).hint(
        "use the settings it began with, or begin anew with another -o; a finished run can be made longer",
    ))
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
    }
}
