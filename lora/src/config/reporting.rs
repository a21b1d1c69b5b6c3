//! What is logged, evaluated and saved while a run trains.

use std::path::PathBuf;

use serde::Serialize;

use super::every::Every;

/// What is logged and when.
#[derive(Debug, Clone)]
pub struct LoggingSettings {
    /// How often a line is logged.
    pub every: Every,
    /// Whether the first step is logged too.
    pub first_step: bool,
    /// Whether the losses are drawn as PNG files.
    pub plot: bool,
    /// The directory of TensorBoard's event files; `None` writes none.
    pub tensorboard: Option<PathBuf>,
}

/// When held-out examples are evaluated.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationSettings {
    /// How often they are evaluated, besides at the end.
    pub every: Every,
    /// Whether they are evaluated before the first step too.
    pub at_start: bool,
}

/// Which checkpoint is the best, and what it is for.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BestSettings {
    /// Whether the run ends with the adapter of the best checkpoint in place of the last.
    #[serde(rename = "load_best_model_at_end")]
    pub load: bool,
    /// Whether a greater loss is the better one.
    pub greater_is_better: bool,
    /// The number of evaluations in a row that were not the best after which the run stops; `None` never
    /// stops early.
    #[serde(rename = "early_stopping_steps")]
    pub patience: Option<usize>,
}

impl BestSettings {
    /// Whether evaluations have a say in the result of the run: they choose its adapter or end it.
    pub fn decides(&self) -> bool {
        self.load || self.patience.is_some()
    }
}

/// When checkpoints are saved and how many are kept.
#[derive(Debug, Clone, Copy)]
pub struct SavingSettings {
    /// How often a checkpoint is saved, besides at the end.
    pub every: Every,
    /// The number of checkpoints that are kept; `None` keeps all.
    pub limit: Option<usize>,
}
