//! The logs of a run: transformers' `trainer_state.json` and LLaMA-Factory's `trainer_log.jsonl`, with their
//! field names, and TensorBoard's events beside them.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use common::cli::GrowingDirectory;
use common::{Context, Result};
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::config::every::Every;
use crate::logs::best::BestCheckpoint;
use crate::logs::history::History;
use crate::logs::step::StepReport;
use crate::logs::tensorboard::EventFile;

/// The name of the file of LLaMA-Factory's lines.
const LOG: &str = "trainer_log.jsonl";

/// The logs of a run, which grow with every step.
pub struct TrainerLog {
    /// `trainer_log.jsonl`, once the run has begun.
    file: Option<File>,
    begun: Instant,
    total_steps: u64,
    /// The number of steps that were taken before this process began.
    first_step: u64,
    steps_per_epoch: u64,
    /// The number of parameters that a token is multiplied with.
    parameters: usize,
    /// The number of tokens that were seen before this process began.
    first_tokens: u64,
    history: History,
    events: Option<EventFile>,
}

/// The loss on the held-out examples, and what it took.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation {
    /// The mean loss over all supervised tokens.
    pub loss: f64,
    /// The number of examples.
    pub examples: usize,
    /// The number of passes they were cut into.
    pub passes: usize,
    /// The time it took.
    pub seconds: f64,
}

impl TrainerLog {
    /// The logs of a run of `total_steps` steps, in which a token is multiplied with `parameters` parameters.
    /// `history` is what a checkpoint after `first_step` steps kept.
    pub fn new(
        total_steps: u64,
        first_step: u64,
        steps_per_epoch: u64,
        parameters: usize,
        history: History,
    ) -> Self {
        let first_tokens = history.tokens_seen;
        Self {
            file: None,
            begun: Instant::now(),
            total_steps,
            first_step,
            steps_per_epoch,
            parameters,
            first_tokens,
            history,
            events: None,
        }
    }

    /// Begins the files in the run's directory, with the lines that the checkpoint kept.
    pub fn begin(&mut self, directory: &mut GrowingDirectory, tensorboard: Option<&Path>) -> Result<()> {
        self.begun = Instant::now();
        self.events =
            tensorboard.map(|path| EventFile::begin(directory, path, self.first_step)).transpose()?;
        let lines = self.history.lines.iter().map(|line| format!("{line}\n"));
        self.file = Some(directory.append(LOG, &lines.collect::<String>())?);
        Ok(())
    }

    /// The logs so far, as a checkpoint keeps them.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Takes a step into account.
    pub fn step(&mut self, step: StepReport) {
        self.history.loss_sum += step.loss;
        self.history.tokens_seen += step.tokens as u64;
        self.history.pending.push(step.loss);
    }

    /// Writes a line for `step` and returns the mean loss of the steps since the last line.
    pub fn log(&mut self, step: StepReport) -> Result<f64> {
        let losses = std::mem::take(&mut self.history.pending);
        let loss = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        let epoch = self.epoch(step.number);
        self.enter(json!({
            "epoch": epoch, "grad_norm": significant(step.grad_norm),
            "learning_rate": significant(step.learning_rate), "loss": significant(loss),
            "step": step.number,
        }))?;
        let mut line = self.times(step.number);
        line.insert("loss".into(), json!(round(loss, 4)));
        line.insert("lr".into(), json!(significant(step.learning_rate)));
        self.write(line)?;
        Ok(loss)
    }

    /// Writes a line for an evaluation after `step` steps.
    pub fn evaluation(&mut self, step: u64, evaluation: &Evaluation) -> Result<()> {
        let Evaluation { loss, examples, passes, seconds } = *evaluation;
        let epoch = self.epoch(step);
        self.enter(json!({
            "epoch": epoch, "eval_loss": significant(loss), "eval_runtime": round(seconds, 4),
            "eval_samples_per_second": round(examples as f64 / seconds, 3),
            "eval_steps_per_second": round(passes as f64 / seconds, 3), "step": step,
        }))?;
        let mut line = self.times(step);
        line.insert("eval_loss".into(), json!(round(loss, 4)));
        self.write(line)
    }

    /// The summary of a run that ended after `step` steps of `batch` examples each, under transformers'
    /// names.
    pub fn summary(&self, step: u64, batch: usize) -> Map<String, Value> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let steps = step.saturating_sub(self.first_step) as f64;
        fields(json!({
            "epoch": self.epoch(step),
            "total_flos": self.operations(),
            "train_loss": self.history.loss_sum / step.max(1) as f64,
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(steps * batch as f64 / seconds, 3),
            "train_steps_per_second": round(steps / seconds, 3),
        }))
    }

    /// The figures of the last evaluation, under transformers' names.
    pub fn last_evaluation(&self) -> Option<Map<String, Value>> {
        let last = self.history.log_history.iter().rev().find(|entry| entry.get("eval_loss").is_some())?;
        let mut last = last.as_object()?.clone();
        last.shift_remove("step");
        Some(last)
    }

    /// transformers' `trainer_state.json` after `step` steps.
    pub fn trainer_state(&self, step: u64, config: &Config, best: Option<&BestCheckpoint>) -> Value {
        let steps = |every: Every| every.steps(self.total_steps, self.steps_per_epoch);
        json!({
            "best_global_step": best.map(|best| best.step),
            "best_metric": best.map(|best| best.eval_loss),
            "best_model_checkpoint": best.map(|best| &best.path),
            "epoch": self.epoch(step),
            "eval_steps": steps(config.evaluation.every),
            "global_step": step,
            "is_hyper_param_search": false,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": self.history.log_history,
            "logging_steps": steps(config.logging.every),
            "max_steps": self.total_steps,
            "num_input_tokens_seen": self.history.tokens_seen,
            "num_train_epochs": self.total_steps.div_ceil(self.steps_per_epoch),
            "save_steps": steps(config.saving.every),
            "stateful_callbacks": {},
            "total_flos": self.operations(),
            "train_batch_size": config.batch.micro_batch,
            "trial_name": null,
            "trial_params": null,
        })
    }

    /// Ends the logs with the summary of the run, which ended after `step` steps.
    pub fn finish(&mut self, step: u64, summary: &Map<String, Value>) -> Result<()> {
        let mut entry = summary.clone();
        entry.insert("step".into(), step.into());
        entry.sort_keys();
        self.enter(Value::Object(entry))
    }

    fn enter(&mut self, entry: Value) -> Result<()> {
        if let Some(events) = &mut self.events {
            events.scalars(&entry)?;
        }
        self.history.log_history.push(entry);
        Ok(())
    }

    /// Floating-point operations so far, as transformers estimates them: six for each token and
    /// parameter.
    fn operations(&self) -> f64 {
        6.0 * self.history.tokens_seen as f64 * self.parameters as f64
    }

    fn epoch(&self, step: u64) -> f64 {
        round(step as f64 / self.steps_per_epoch as f64, 4)
    }

    /// The time that the steps after `step` will take, as `H:MM:SS`.
    pub fn remaining(&self, step: u64) -> String {
        let done = step.saturating_sub(self.first_step).max(1) as f64;
        let left = self.total_steps.saturating_sub(step) as f64;
        clock(self.begun.elapsed().as_secs_f64() / done * left)
    }

    /// The fields of progress and time, which every line begins with.
    fn times(&self, step: u64) -> Map<String, Value> {
        let elapsed = self.begun.elapsed().as_secs_f64();
        fields(json!({
            "current_steps": step,
            "total_steps": self.total_steps,
            "epoch": self.epoch(step),
            "percentage": round(100.0 * step as f64 / self.total_steps.max(1) as f64, 2),
            "elapsed_time": clock(elapsed),
            "remaining_time": self.remaining(step),
            "throughput": round((self.history.tokens_seen - self.first_tokens) as f64 / elapsed, 2),
            "total_tokens": self.history.tokens_seen,
        }))
    }

    fn write(&mut self, line: Map<String, Value>) -> Result<()> {
        let line = Value::Object(line);
        if let Some(file) = &mut self.file {
            file.write_all(format!("{line}\n").as_bytes()).context(LOG)?;
        }
        self.history.lines.push(line);
        Ok(())
    }
}

fn fields(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A time as `H:MM:SS`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A value with twelve significant digits: more than a reader needs, and few enough that a value read back
/// from JSON is the same.
fn significant(value: f64) -> f64 {
    format!("{value:.11e}").parse().unwrap_or(value)
}

fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}
