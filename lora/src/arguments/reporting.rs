//! The options that say what is logged, evaluated and saved on the way.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use common::{Error, Result};

use super::checks::{at_least_1, steps};
use crate::config::every::Every;
use crate::config::reporting::{BestSettings, EvaluationSettings, LoggingSettings, SavingSettings};
use crate::data::DataArguments;

/// The options that say what is logged, evaluated and saved on the way.
#[derive(Args, Debug, Clone)]
pub struct ReportingArguments {
    /// Steps between lines of trainer_log.jsonl, or below 1 their share
    #[arg(long, value_name = "STEPS", default_value_t = 10.0)]
    pub logging_steps: f64,

    /// Log the first step too
    #[arg(long)]
    pub logging_first_step: bool,

    /// When to evaluate besides the end [default: steps with --eval-steps, else no]
    #[arg(long, value_name = "WHEN", value_enum)]
    pub eval_strategy: Option<Strategy>,

    /// Steps between evaluations, or below 1 their share [default: --logging-steps]
    #[arg(long, value_name = "STEPS")]
    pub eval_steps: Option<f64>,

    /// Evaluate before the first step too
    #[arg(long)]
    pub eval_on_start: bool,

    /// When to save checkpoints besides the end
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Strategy::Steps)]
    pub save_strategy: Strategy,

    /// Steps between checkpoints, or below 1 their share
    #[arg(long, value_name = "STEPS", default_value_t = 500.0)]
    pub save_steps: f64,

    /// Keep no more checkpoints than this: the latest, and the best under --load-best-model-at-end
    #[arg(long, value_name = "N")]
    pub save_total_limit: Option<usize>,

    /// End with the adapter of the best checkpoint in place of the last
    #[arg(long)]
    pub load_best_model_at_end: bool,

    /// What makes a checkpoint the best
    #[arg(long, value_name = "METRIC", value_parser = metric, default_value = "loss")]
    pub metric_for_best_model: String,

    /// Whether more of the metric is better
    #[arg(long, value_name = "BOOL", default_value_t = false,
        action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new())]
    pub greater_is_better: bool,

    /// Stop after this many evaluations in a row that were not the best
    #[arg(long, value_name = "N")]
    pub early_stopping_steps: Option<usize>,

    /// Draw training_loss.png and training_eval_loss.png
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true",
        action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new())]
    pub plot_loss: bool,

    /// Where else to log, separated by commas
    #[arg(long, value_name = "NAMES", value_enum, value_delimiter = ',', default_value = "none")]
    pub report_to: Vec<ReportTo>,

    /// Directory of TensorBoard's event files [default: runs in the output directory]
    #[arg(long, value_name = "DIR")]
    pub logging_dir: Option<PathBuf>,
}

impl ReportingArguments {
    /// What is logged and when, in a run whose output is `output`.
    pub fn logging(&self, output: &Path) -> Result<LoggingSettings> {
        let tensorboard = self.report_to.contains(&ReportTo::Tensorboard);
        Ok(LoggingSettings {
            every: Every::Steps(steps("--logging-steps", self.logging_steps)?),
            first_step: self.logging_first_step,
            plot: self.plot_loss,
            tensorboard: tensorboard.then(|| self.logging_dir.clone().unwrap_or_else(|| output.join("runs"))),
        })
    }

    /// When to evaluate held-out examples.
    pub fn evaluation(&self) -> Result<EvaluationSettings> {
        let every = every(self.strategy(), "--eval-steps", self.eval_steps.unwrap_or(self.logging_steps))?;
        Ok(EvaluationSettings { every, at_start: self.eval_on_start })
    }

    /// Which checkpoint is the best, and what it is for.
    pub fn best(&self) -> BestSettings {
        BestSettings {
            load: self.load_best_model_at_end,
            greater_is_better: self.greater_is_better,
            patience: self.early_stopping_steps,
        }
    }

    /// When to save checkpoints and how many to keep.
    pub fn saving(&self) -> Result<SavingSettings> {
        let every = every(self.save_strategy, "--save-steps", self.save_steps)?;
        at_least_1("--save-total-limit", self.save_total_limit.unwrap_or(1))?;
        Ok(SavingSettings { every, limit: self.save_total_limit })
    }

    /// Fails where something is asked for that has nothing to work on: evaluations without held-out
    /// examples, a best checkpoint or an early stop without evaluations.
    pub fn check(&self, data: &DataArguments) -> Result<()> {
        steps("--logging-steps", self.logging_steps)?;
        let (evaluation, saving) = (self.evaluation()?.every, self.saving()?.every);
        if let Some(option) = self.asks_for_evaluation()
            && !data.holds_out()
        {
            return Err(Error::usage(format!("{option} without held-out examples"))
                .hint("add --val-size 0.1, or name other data with --eval-dataset"));
        }
        at_least_1("--early-stopping-steps", self.early_stopping_steps.unwrap_or(1))?;
        if self.early_stopping_steps.is_some() && evaluation == Every::Never {
            return Err(Error::usage("--early-stopping-steps without evaluations").hint("add --eval-steps"));
        }
        if self.load_best_model_at_end && !saves_what_is_evaluated(evaluation, saving) {
            return Err(Error::usage("--load-best-model-at-end: every checkpoint has to be evaluated").hint(
                "make --save-steps a multiple of --eval-steps, or give both strategies the same value",
            ));
        }
        Ok(())
    }

    /// The strategy of evaluations, which `--eval-steps` alone implies.
    fn strategy(&self) -> Strategy {
        match (self.eval_strategy, self.eval_steps) {
            (Some(strategy), _) => strategy,
            (None, Some(_)) => Strategy::Steps,
            (None, None) => Strategy::No,
        }
    }

    /// The option that asks for evaluations, if one does.
    fn asks_for_evaluation(&self) -> Option<&'static str> {
        match self.strategy() {
            Strategy::No if self.eval_on_start => Some("--eval-on-start"),
            Strategy::No if self.load_best_model_at_end => Some("--load-best-model-at-end"),
            Strategy::No => None,
            _ if self.eval_strategy.is_some() => Some("--eval-strategy"),
            _ => Some("--eval-steps"),
        }
    }
}

/// How often something is done by its strategy and by its option for a number of steps.
fn every(strategy: Strategy, option: &str, number: f64) -> Result<Every> {
    match strategy {
        Strategy::No => Ok(Every::Never),
        Strategy::Steps => Ok(Every::Steps(steps(option, number)?)),
        Strategy::Epoch => Ok(Every::Epoch),
    }
}

/// Whether every checkpoint falls on an evaluation, as transformers demands.
fn saves_what_is_evaluated(evaluation: Every, saving: Every) -> bool {
    match (evaluation, saving) {
        (Every::Steps(evaluation), Every::Steps(saving)) if evaluation >= 1.0 && saving >= 1.0 => {
            saving % evaluation == 0.0
        }
        (Every::Never, _) | (_, Every::Never) => false,
        (evaluation, saving) => evaluation == saving,
    }
}

/// When something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// Never.
    No,
    /// After every N steps.
    Steps,
    /// After every pass over the data.
    Epoch,
}

/// Where logs go besides the files that are always written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportTo {
    /// Nowhere else.
    None,
    /// TensorBoard's event files.
    Tensorboard,
}

fn metric(text: &str) -> Result<String, String> {
    match text {
        "loss" | "eval_loss" => Ok(text.to_owned()),
        _ => Err("only loss (or eval_loss) is measured while training".into()),
    }
}
