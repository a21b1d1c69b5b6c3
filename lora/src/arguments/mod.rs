//! The command line, as close to it as can be. Options are named as LLaMA-Factory names them.

pub mod adapter;
pub mod optimization;
pub mod reporting;

use std::path::PathBuf;

use clap::{Arg, ArgAction, Parser};
use common::cli::Common;
use common::device::DeviceChoice;

use crate::data::DataArguments;
use adapter::AdapterArguments;
use optimization::OptimizationArguments;
use reporting::ReportingArguments;

const EXAMPLES: &str = "\
Examples:
  lora-train train.yaml
  lora-train train.yaml --resume
  lora-train train.yaml --learning-rate 2e-5 --dry-run
  lora-train qwen-nf4 --data mine.json -o out
  quantize Qwen2.5-7B-Instruct | lora-train --data mine.json --num-train-epochs 2";

/// Fine-tunes LoRA adapters on a frozen model and prints the adapter's directory
#[derive(Parser, Debug, Clone)]
#[command(name = "lora-train", version, after_help = EXAMPLES, mut_args = switch)]
pub struct Arguments {
    /// Model directory (NF4, bf16, f16 or f32), or LLaMA-Factory's train.yaml [default: read from stdin]
    #[arg(value_name = "MODEL")]
    pub model: Vec<PathBuf>,

    /// Print the plan and the schedule, and train nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Continue from the last checkpoint in the output directory; a finished run, to a greater length
    #[arg(long, conflicts_with = "force")]
    pub resume: bool,

    /// Continue from this checkpoint; true means --resume
    #[arg(long, value_name = "DIR", conflicts_with = "force")]
    pub resume_from_checkpoint: Option<PathBuf>,

    /// Replace a finished run of other settings; an unfinished one still needs --resume or --force
    #[arg(long)]
    pub overwrite_output_dir: bool,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,

    /// GPU memory to stay within, as 24GiB [default: what is free, less 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub vram_budget: Option<common::cli::Size>,

    /// Compute in fp16 with a dynamic loss scale on a GPU, in place of bf16
    #[arg(long)]
    pub fp16: bool,

    /// Compute on the CPU: --device cpu
    #[arg(long)]
    pub use_cpu: bool,

    /// Output, --force, --quiet and --verbose
    #[command(flatten)]
    pub common: Common,

    /// What is trained on
    #[command(flatten, next_help_heading = "Data")]
    pub data: DataArguments,

    /// What is trained
    #[command(flatten, next_help_heading = "Adapter")]
    pub adapter: AdapterArguments,

    /// How it is trained
    #[command(flatten, next_help_heading = "Optimization")]
    pub optimization: OptimizationArguments,

    /// What is logged, evaluated and saved on the way
    #[command(flatten, next_help_heading = "Logs, evaluation and checkpoints")]
    pub reporting: ReportingArguments,
}

impl AsRef<Common> for Arguments {
    fn as_ref(&self) -> &Common {
        &self.common
    }
}

/// Gives an option without a value the optional value `=true` or `=false`, so that the command line
/// can also switch off what a file switched on.
fn switch(argument: Arg) -> Arg {
    if !matches!(argument.get_action(), ArgAction::SetTrue) {
        return argument;
    }
    argument
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_value("false")
        .default_missing_value("true")
        .value_name("BOOL")
        .value_parser(clap::builder::BoolishValueParser::new())
        .hide_default_value(true)
        .hide_possible_values(true)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn switches_take_a_value_but_need_none() {
        let of = |text: &str| {
            let line = ["lora-train"].into_iter().chain(text.split_whitespace());
            Arguments::try_parse_from(line).unwrap().data.mask_history
        };
        assert!(!of("") && of("--mask-history") && of("--mask-history=true") && !of("--mask-history=false"));
    }
}
