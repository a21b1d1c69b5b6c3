//! The checkpoint that a run continues from, and whether it may.

use std::path::{Path, PathBuf};

use common::cli::{self, note, recipe_of};
use common::{Context, Result, error, files};
use serde_json::Value;

use crate::config::recipe::TOOL;
use crate::config::{Begin, Config};
use crate::run::checkpoint::{PROGRESS, Progress, TRAINER_STATE, list};
use crate::schedule::Length;

/// The directory of the checkpoint that the run continues from, if it continues one.
pub fn checkpoint(config: &Config) -> Result<Option<PathBuf>> {
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

/// The progress of the run that saved the checkpoint in `path`. It must be the run of `recipe`, or one that
/// differs in its length only and ended with this checkpoint, before the `total` steps of this run.
pub fn progress(path: &Path, recipe: &Value, total: u64) -> Result<Progress> {
    let Some(saved) = recipe_of(path, TOOL) else {
        return Err(error!("{} is not a complete checkpoint", path.display())
            .hint("remove it and --resume from the one before, or begin anew with --force"));
    };
    let named = || path.join(PROGRESS).display().to_string();
    let progress: Progress = files::read_json(&path.join(PROGRESS), files::PROGRESS).with_context(named)?;
    let state: Value = files::read_json(&path.join(TRAINER_STATE), files::PROGRESS)?;
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

/// The lengths of two runs as text, where the runs differ in their length only.
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

/// Fails where the settings or the data are not those that the run began with.
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
