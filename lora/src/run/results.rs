//! What a run writes: checkpoints on the way, the adapter and the summaries at the end.

use std::path::PathBuf;

use common::adapter::Adapter;
use common::cli::{self, note};
use common::device::Device;
use common::host_memory::peak_resident_memory;
use common::{Context, Result};
use serde_json::{Value, json};

use crate::config::Config;
use crate::logs::best::{self, BestCheckpoint};
use crate::logs::plot;
use crate::run::checkpoint::{self, Progress, State};
use crate::run::train::Run;

impl Run<'_> {
    /// Saves a checkpoint after `step` steps, and removes those beyond the limit. `None` on every rank but 0,
    /// which alone writes.
    pub(super) fn save(&mut self, step: u64) -> Result<Option<PathBuf>> {
        let best = self.best(Some(step));
        let Some(directory) = &mut self.directory else { return Ok(None) };
        let (scaler, ranks) = (self.trainer.scaler, self.config.batch.ranks);
        let state = State {
            model: &self.trainer.model,
            adapter: &self.adapter,
            moments: &self.trainer.moments,
            progress: Progress { step, history: self.log.history().clone(), scaler, ranks },
            trainer_state: &self.log.trainer_state(step, &self.config, best.as_ref()),
            recipe: &self.recipe,
        };
        let path = checkpoint::save(directory, &self.config.model.path, &self.texts, &state)
            .context("cannot save a checkpoint")?;
        self.rotate(best)?;
        Ok(Some(path))
    }

    /// Removes the oldest checkpoints beyond the limit, but not `best` where the run ends with it.
    pub(super) fn rotate(&mut self, best: Option<BestCheckpoint>) -> Result<()> {
        let (Some(limit), Some(directory)) = (self.config.saving.limit, &mut self.directory) else {
            return Ok(());
        };
        let kept = best.filter(|_| self.config.best.load).map(|best| best.step);
        checkpoint::rotate(directory, &self.config.output, limit, kept)
            .context("cannot remove an old checkpoint")
    }

    /// The best checkpoint so far, counting the one that is being saved.
    pub(super) fn best(&self, being_saved: Option<u64>) -> Option<BestCheckpoint> {
        let Config { output, best, .. } = &self.config;
        best::best(output, self.log.history(), best.greater_is_better, being_saved)
    }

    /// Draws the losses; what goes wrong with that is only a warning.
    pub(super) fn plot(&mut self) {
        let log_history = &self.log.history().log_history;
        if self.config.logging.plot
            && let Some(directory) = &mut self.directory
            && let Err(problem) = plot::save(directory, &self.config.output, log_history)
        {
            cli::warn(problem);
        }
    }

    /// Writes the adapter and the summaries, and marks the directory as complete after `last` steps. `None` on
    /// every rank but 0, which alone writes.
    pub(super) fn finish(mut self, last: u64) -> Result<Option<PathBuf>> {
        let best = self.best(None);
        let Some(mut directory) = self.directory.take() else { return Ok(None) };
        if let Some(best) = best.as_ref().filter(|_| self.config.best.load) {
            self.trainer.model.set_adapter(&Adapter::load(&best.path)?)?;
        }
        let Self { config, trainer, mut log, adapter, texts, .. } = self;
        let mut summary = log.summary(last, config.batch.effective());
        log.finish(last, &summary)?;
        let stage = directory.stage()?;
        let write = |name: &str, value: Value| checkpoint::write_json(&stage.join(name), &value);
        checkpoint::save_adapter(&stage, &config.model.path, &texts, &trainer.model, &adapter)?;
        write("train_results.json", json!(summary))?;
        let loss = summary["train_loss"].clone();
        if let Some(evaluation) = log.last_evaluation() {
            write("eval_results.json", json!(evaluation))?;
            summary.extend(evaluation);
        }
        write("all_results.json", json!(summary))?;
        write(checkpoint::TRAINER_STATE, log.trainer_state(last, &config, best.as_ref()))?;
        directory.place_files()?;
        directory.finish()?;
        let mut peak =
            peak_resident_memory().map_or(String::new(), |b| format!(", peak memory {} MiB", b >> 20));
        if let Device::Cuda(gpu) = trainer.model.device() {
            peak += &format!(", peak GPU memory {} MiB", gpu.memory()?.peak >> 20);
        }
        note(format_args!("train_loss {loss}{peak}"));
        if let Some(BestCheckpoint { eval_loss, path, .. }) = best {
            note(format_args!("the best checkpoint is {} with eval_loss {eval_loss:.4}", path.display()));
        }
        Ok(Some(config.output))
    }
}
