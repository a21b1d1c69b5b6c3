//! What happened in a run: the history of transformers' `trainer_state.json` and LLaMA-Factory's
//! `trainer_log.jsonl`, with their field names.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The two logs of a run.
pub struct Record {
    log: PathBuf,
    begun: Instant,
    total_steps: u64,
    first_step: u64,
    epochs: f64,
    history: History,
}

/// What a checkpoint keeps of the logs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct History {
    /// Entries of `log_history`, as transformers has them.
    pub log_history: Vec<Value>,
    /// Lines of `trainer_log.jsonl`.
    pub lines: Vec<Value>,
    /// Sum of all steps' losses.
    pub loss_sum: f64,
    /// Tokens seen, prompts included.
    pub tokens_seen: u64,
    /// Losses since the last line.
    pub pending: Vec<f64>,
}

/// One optimizer step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Counted from 1.
    pub number: u64,
    /// Mean over its supervised tokens.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// The rate it was taken with.
    pub learning_rate: f64,
    /// Its tokens, prompts included.
    pub tokens: usize,
}

impl Record {
    /// Begins the logs of a run of `total_steps` in `output`; `history` is what a checkpoint after
    /// `first_step` steps kept.
    pub fn begin(
        output: &Path,
        total_steps: u64,
        first_step: u64,
        epochs: f64,
        history: History,
    ) -> Result<Self> {
        let log = output.join("trainer_log.jsonl");
        let mut text = String::new();
        for line in &history.lines {
            text += &format!("{line}\n");
        }
        fs_err::write(&log, text)?;
        Ok(Self { log, begun: Instant::now(), total_steps, first_step, epochs, history })
    }

    /// What a checkpoint keeps.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Counts a step.
    pub fn step(&mut self, step: Step) {
        self.history.loss_sum += step.loss;
        self.history.tokens_seen += step.tokens as u64;
        self.history.pending.push(step.loss);
    }

    /// Writes a line for `step` and returns the mean loss since the last one.
    pub fn log(&mut self, step: Step) -> Result<f64> {
        let losses = std::mem::take(&mut self.history.pending);
        let loss = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        let epoch = self.epoch(step.number);
        self.history.log_history.push(json!({
            "epoch": epoch, "grad_norm": step.grad_norm, "learning_rate": step.learning_rate,
            "loss": loss, "step": step.number,
        }));
        let mut line = self.times(step.number);
        line.insert("loss".into(), json!(round(loss, 4)));
        line.insert("lr".into(), json!(step.learning_rate));
        self.write(line)?;
        Ok(loss)
    }

    /// Writes a line for an evaluation of `examples` examples that took `seconds`.
    pub fn evaluation(&mut self, step: u64, loss: f64, examples: usize, seconds: f64) -> Result<()> {
        let epoch = self.epoch(step);
        self.history.log_history.push(json!({
            "epoch": epoch, "eval_loss": loss, "eval_runtime": round(seconds, 4),
            "eval_samples_per_second": round(examples as f64 / seconds, 3),
            "eval_steps_per_second": round(examples as f64 / seconds, 3), "step": step,
        }));
        let mut line = self.times(step);
        line.insert("eval_loss".into(), json!(round(loss, 4)));
        self.write(line)
    }

    /// The summary that ends a run, under transformers' names.
    pub fn summary(&self, samples: f64) -> Value {
        let seconds = self.begun.elapsed().as_secs_f64();
        let steps = self.total_steps.saturating_sub(self.first_step) as f64;
        json!({
            "epoch": self.epochs,
            "train_loss": self.history.loss_sum / self.total_steps.max(1) as f64,
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(samples / seconds, 3),
            "train_steps_per_second": round(steps / seconds, 3),
        })
    }

    /// transformers' `trainer_state.json` after `step` steps.
    pub fn trainer_state(&self, step: u64, config: &crate::config::Config) -> Value {
        json!({
            "best_global_step": null,
            "best_metric": null,
            "best_model_checkpoint": null,
            "epoch": self.epoch(step),
            "eval_steps": config.eval_steps,
            "global_step": step,
            "is_hyper_param_search": false,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": self.history.log_history,
            "logging_steps": config.logging_steps,
            "max_steps": self.total_steps,
            "num_input_tokens_seen": self.history.tokens_seen,
            "num_train_epochs": self.epochs.ceil(),
            "save_steps": config.save_steps,
            "train_batch_size": config.micro_batch,
        })
    }

    fn epoch(&self, step: u64) -> f64 {
        round(self.epochs * step as f64 / self.total_steps.max(1) as f64, 4)
    }

    /// The fields that every line begins with.
    fn times(&self, step: u64) -> Map<String, Value> {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let done = step.saturating_sub(self.first_step).max(1) as f64;
        let remaining = elapsed / done * self.total_steps.saturating_sub(step) as f64;
        let fields = json!({
            "current_steps": step,
            "total_steps": self.total_steps,
            "epoch": self.epoch(step),
            "percentage": round(100.0 * step as f64 / self.total_steps.max(1) as f64, 2),
            "elapsed_time": clock(elapsed),
            "remaining_time": clock(remaining),
            "throughput": round(self.history.tokens_seen as f64 / elapsed, 2),
            "total_tokens": self.history.tokens_seen,
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn write(&mut self, line: Map<String, Value>) -> Result<()> {
        let line = Value::Object(line);
        let mut file = fs_err::OpenOptions::new().append(true).open(&self.log)?;
        file.write_all(format!("{line}\n").as_bytes()).with_context(|| self.log.display().to_string())?;
        self.history.lines.push(line);
        Ok(())
    }
}

/// `H:MM:SS`
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}
