//! The recipe of a run: everything that its result depends on.
//!
//! `made-by.json` of the output and of every checkpoint has it. By it a finished run is known again, and a
//! checkpoint continues only under the recipe it was made with.

use std::path::Path;

use common::Result;
use common::checkpoint::fingerprint;
use common::model::{AdapterSettings, Initialization};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Config;
use super::every::Every;
use super::model::{ModelSettings, NoiseSettings};
use super::optimization::{LearningRates, OptimizerSettings, RandomSettings};
use super::reporting::BestSettings;
use crate::schedule::{Length, ScheduleSettings};

/// The name of the tool in `made-by.json`.
pub const TOOL: &str = "lora-train";

/// The recipe as it is written, in the order of the file.
///
/// A setting that is added to a group is left out of the recipe where it has its default
/// (`skip_serializing_if`), so that the runs and checkpoints of earlier versions are still recognised.
#[derive(Serialize)]
struct Recipe<'a> {
    #[serde(flatten)]
    model: &'a ModelSettings,
    /// The identity of the tokenized training data, and with it of tokenizer, template and cutoff.
    examples: &'a str,
    val_size: f64,
    packing: bool,
    #[serde(flatten)]
    adapter: &'a AdapterSettings,
    #[serde(flatten)]
    noise: &'a NoiseSettings,
    init_lora_weights: Initialization,
    adapter_name_or_path: Option<&'a Path>,
    #[serde(flatten)]
    rates: &'a LearningRates,
    #[serde(flatten)]
    length: Length,
    effective_batch: usize,
    #[serde(flatten)]
    schedule: &'a ScheduleSettings,
    #[serde(flatten)]
    optimizer: &'a OptimizerSettings,
    #[serde(flatten)]
    random: &'a RandomSettings,
    /// How evaluations decide about the result, where they do.
    choice: Option<Choice<'a>>,
}

/// How evaluations decide about the result of a run.
#[derive(Serialize)]
struct Choice<'a> {
    /// The identity of held-out data that is not a part of the training data.
    examples: Option<&'a str>,
    evaluation: Every,
    saving: Every,
    #[serde(flatten)]
    best: &'a BestSettings,
}

impl Config {
    /// The settings that must be the same on all ranks of a run, with what tells the model and the adapter that
    /// it starts from apart from others. The data need not be: all ranks train on what rank 0 reads.
    pub fn shared(&self) -> Result<Map<String, Value>> {
        let mut shared = self.options.shared();
        shared.insert("the model".into(), fingerprint(&self.model.path)?.into());
        if let Some(adapter) = &self.earlier_adapter {
            shared.insert("the adapter it starts from".into(), fingerprint(adapter)?.into());
        }
        Ok(shared)
    }

    /// The recipe of the run. `examples` and `held_out` identify the tokenized data.
    pub fn recipe(&self, examples: &str, held_out: Option<&str>) -> Result<Value> {
        let choice = self.best.decides().then_some(Choice {
            examples: held_out,
            evaluation: self.evaluation.every,
            saving: self.saving.every,
            best: &self.best,
        });
        Ok(serde_json::to_value(Recipe {
            model: &self.model,
            examples,
            val_size: self.data.val_size,
            packing: self.data.packs(),
            adapter: &self.adapter,
            noise: &self.noise,
            init_lora_weights: self.adapter.initialization,
            adapter_name_or_path: self.earlier_adapter.as_deref(),
            rates: &self.rates,
            length: self.length,
            effective_batch: self.batch.effective(),
            schedule: &self.schedule,
            optimizer: &self.optimizer,
            random: &self.random,
            choice,
        })?)
    }
}
