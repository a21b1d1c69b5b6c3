//! The settings of a run, checked and in groups.
//!
//! [`crate::arguments`] makes them out of options. Groups that the result of a run depends on serialize
//! themselves, under the names of their options; [`recipe`] puts them together.
//!
//! | file | what it is |
//! |---|---|
//! | [`model`] | the frozen model, the adapters' beginning, noise, and where to compute |
//! | [`optimization`] | AdamW, batches, learning rates and random seeds |
//! | [`reporting`] | logs, evaluation and checkpoints on the way |
//! | [`every`] | how often something is done |
//! | [`recipe`] | everything that the result depends on, as `made-by.json` has it |
//! | [`options`] | every option and its value, as `training_args.yaml` has them |

pub mod every;
pub mod model;
pub mod optimization;
pub mod options;
pub mod recipe;
pub mod reporting;

use std::path::PathBuf;

use common::model::AdapterSettings;

use crate::data::DataArguments;
use crate::schedule::{Length, ScheduleSettings};
use model::{DeviceSettings, ModelSettings, NoiseSettings};
use optimization::{BatchSettings, LearningRates, OptimizerSettings, RandomSettings};
use options::Options;
use reporting::{BestSettings, EvaluationSettings, LoggingSettings, SavingSettings};

/// The settings of a run, which all hold together.
#[derive(Debug, Clone)]
pub struct Config {
    /// The frozen model.
    pub model: ModelSettings,
    /// The data to train on and to evaluate with.
    pub data: DataArguments,
    /// The form of new adapters and their initial values.
    pub adapter: AdapterSettings,
    /// The directory of the adapter to start from in place of new ones.
    pub earlier_adapter: Option<PathBuf>,
    /// The noise that regularizes training.
    pub noise: NoiseSettings,
    /// The highest learning rates.
    pub rates: LearningRates,
    /// The length of the run.
    pub length: Length,
    /// The examples of an optimizer step.
    pub batch: BatchSettings,
    /// How the learning rate rises and falls.
    pub schedule: ScheduleSettings,
    /// The optimizer.
    pub optimizer: OptimizerSettings,
    /// The seeds of everything random, and whether examples are shuffled.
    pub random: RandomSettings,
    /// What is logged and when.
    pub logging: LoggingSettings,
    /// When held-out examples are evaluated.
    pub evaluation: EvaluationSettings,
    /// Which checkpoint is the best, and what it is for.
    pub best: BestSettings,
    /// When checkpoints are saved and how many are kept.
    pub saving: SavingSettings,
    /// Where to compute.
    pub device: DeviceSettings,
    /// The directory of adapters, logs and checkpoints.
    pub output: PathBuf,
    /// Where the run begins.
    pub begin: Begin,
    /// Whether to show the plan of the run and stop.
    pub dry_run: bool,
    /// Every option and its value, for `training_args.yaml`.
    pub options: Options,
}

/// Where a run begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Begin {
    /// At step 0; anything that is in the way is an error.
    New,
    /// At step 0, in place of a finished run.
    Overwriting,
    /// At step 0, in place of any run.
    Forced,
    /// At the last checkpoint in the output directory.
    Resumed,
    /// At the checkpoint in this directory.
    ResumedFrom(PathBuf),
}

#[cfg(test)]
mod tests;
