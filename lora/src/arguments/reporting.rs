//! What is logged, evaluated and saved on the way.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::optimization::Strategy;

/// What is logged, evaluated and saved on the way.
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

/// Where logs go besides the files that are always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
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
