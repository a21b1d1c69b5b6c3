//! The command line. Options are named as LLaMA-Factory names them, and each file makes the settings of a
//! run out of its own.
//!
//! | file | what it is |
//! |---|---|
//! | [`adapter`] | options of the adapter and of the frozen model under it |
//! | [`optimization`] | options of length, batches, schedule and optimizer |
//! | [`reporting`] | options of logs, evaluation and checkpoints |
//! | `data` | what the options of the data demand of others |
//! | `checks` | numbers that options cannot have |

pub mod adapter;
mod checks;
mod data;
pub mod optimization;
pub mod reporting;

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Parser};
use common::cli::Common;
use common::device::DeviceChoice;
use common::device::cuda::Float16;
use common::world::World;
use common::{Error, Result};

use crate::config::model::{DeviceSettings, ModelSettings};
use crate::config::options::Options;
use crate::config::{Begin, Config};
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

    /// Where to compute: auto (every GPU, or the CPU), cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,

    /// GPU memory to stay within, as 24GiB [default: what is free, less 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub vram_budget: Option<common::cli::Size>,

    /// On several GPUs, divide blocks of the base that have no room among them
    #[arg(long)]
    pub shard_base: bool,

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

impl Arguments {
    /// Where to compute.
    pub fn device(&self) -> DeviceChoice {
        if self.use_cpu { DeviceChoice::Cpu } else { self.device }
    }

    /// Checks all options, waits for the model's path where it comes through a pipe, and returns the settings
    /// of the run on the ranks of `world`. `options` has every option with its value.
    pub fn config(self, options: Options, world: &World) -> Result<Config> {
        let Self { data, adapter, optimization, reporting, .. } = &self;
        let random = optimization.random();
        let new_adapter = adapter.settings(random.seed)?;
        let noise = adapter.noise(optimization.neftune_alpha()?)?;
        let (rates, length) = (optimization.rates()?, optimization.length()?);
        let batch = optimization.batch(world.size())?;
        let (schedule, optimizer) = (optimization.schedule()?, optimization.optimizer()?);
        data::check(data, optimization)?;
        reporting.check(data)?;
        let model = self.model(world)?;
        let output = match &self.common.output {
            Some(output) => output.clone(),
            None => default_output(&model.path)?,
        };
        Ok(Config {
            model,
            data: data::settings(data, optimization, batch),
            adapter: new_adapter,
            earlier_adapter: adapter.earlier_adapter()?.map(fs_err::canonicalize).transpose()?,
            noise,
            rates,
            length,
            batch,
            schedule,
            optimizer,
            random,
            logging: reporting.logging(&output)?,
            evaluation: reporting.evaluation()?,
            best: reporting.best(),
            saving: reporting.saving()?,
            device: DeviceSettings {
                choice: self.device(),
                vram_budget: self.vram_budget.map(|size| size.0),
                shard_base: self.shard_base(world)?,
            },
            output,
            begin: self.begin(),
            dry_run: self.dry_run,
            options,
        })
    }

    /// Whether ranks share the base.
    fn shard_base(&self, world: &World) -> Result<bool> {
        if self.shard_base && world.size() == 1 {
            return Err(Error::usage("--shard-base: this run has one process, and nothing to share the base with").hint(
                "without --shard-base, blocks that have no room on the GPU are streamed from the host's memory",
            ));
        }
        Ok(self.shard_base)
    }

    /// The frozen model, whose path may come through a pipe.
    fn model(&self, world: &World) -> Result<ModelSettings> {
        let path = fs_err::canonicalize(world.inputs(&self.model)?.directory()?)?;
        if common::model::is_adapter(&path) {
            return Err(Error::usage(format!("{} is an adapter, not a model", path.display()))
                .hint("name the base as MODEL and the adapter with --adapter-name-or-path"));
        }
        Ok(ModelSettings {
            path,
            float16: if self.fp16 { Float16::Fp16 } else { Float16::Bf16 },
            quantization: self.adapter.quantization(),
            router_loss: self.adapter.router_loss()?,
        })
    }

    /// Where the run begins.
    fn begin(&self) -> Begin {
        let from = self.resume_from_checkpoint.as_deref().filter(|from| *from != Path::new("false"));
        match from {
            _ if self.common.force => Begin::Forced,
            Some(path) if path != Path::new("true") && !self.resume => Begin::ResumedFrom(path.to_path_buf()),
            Some(_) => Begin::Resumed,
            None if self.resume => Begin::Resumed,
            None if self.overwrite_output_dir => Begin::Overwriting,
            None => Begin::New,
        }
    }
}

/// The output where none is named: `./NAME-lora` for a model in a directory called NAME.
fn default_output(model: &Path) -> Result<PathBuf> {
    let Some(mut output) = common::hub_cache::name_of(model) else {
        return Err(Error::usage(format!("{} has no name to call the output after", model.display()))
            .hint("name the output with -o"));
    };
    output.push("-lora");
    Ok(PathBuf::from(output))
}

/// Lets a switch take the value `=true` or `=false`, so that the command line can also switch off what a file
/// switched on.
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
