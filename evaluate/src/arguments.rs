//! The command line of `evaluate`.

use std::path::{Path, PathBuf};

use clap::Parser;
use common::device::Device;
use common::models::ModelArguments;
use common::{Result, cli};

use crate::questions::Style;
use crate::tasks::Split;
use crate::tasks::Task;

/// Tokens of a pass: enough that widening weights is a small part of it, few enough for the memory.
const HOST_PASS_TOKENS: usize = 2048;
const GPU_PASS_TOKENS: usize = 8192;
/// Score models on multiple-choice questions (MMLU, CMMLU, C-Eval), or compute their loss.
///
/// Prints accuracies by subject and category, and writes reports/MODEL-TASK.json with a chart beside
/// it; -o names another file. The questions of a subject share their five shots, which go through the
/// model once. A run that is stopped continues where it was when it is started again. Several models
/// are ranked, best first; adapters of one base share it.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  evaluate Qwen2.5-7B-Instruct-nf4
  evaluate out --data mmlu.zip --subjects astronomy,virology --limit 20 --details answers.jsonl
  evaluate out/checkpoint-* --task cmmlu --style llamafactory
  evaluate out/checkpoint-* --loss held-out.json
  evaluate merged model.gguf --loss held-out.json
  merge out -o merged | evaluate --data mmlu
  evaluate --compare before.json after.json"
)]
pub struct Arguments {
    /// Models (directories or GGUF files) or adapters; read from standard input where none is given
    #[arg(value_name = "MODEL")]
    pub models: Vec<PathBuf>,

    /// Which questions are asked
    #[arg(long, value_enum, default_value_t)]
    pub task: Task,

    /// The questions: a directory or an archive as downloaded; fetched from the hub where not given
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,

    /// Compute the loss on a file of instruction data, as lora-train does, and ask no questions
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "task", "data", "style", "shots", "split", "subjects", "no_prefix_cache",
    ])]
    pub loss: Option<PathBuf>,

    /// Keep no more tokens of an example than this, with --loss
    #[arg(long, value_name = "TOKENS", default_value_t = 2048, requires = "loss")]
    pub cutoff_len: usize,

    /// Compare two reports of the same questions, and score nothing
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["models", "data", "loss"])]
    pub compare: Vec<PathBuf>,

    /// Whose prompts are used
    #[arg(long, value_enum, default_value_t)]
    pub style: Style,

    /// How many answered questions come first
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=5))]
    pub shots: u8,

    /// Which part of the questions is asked [default: test, of C-Eval val]
    #[arg(long, value_enum)]
    pub split: Option<Split>,

    /// Only these subjects, e.g. astronomy,virology
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub subjects: Vec<String>,

    /// Only the first N questions of each subject, or the first N rows of --loss
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,

    /// Write a line of JSON for each question (logprobs, prediction, answer), or each row of --loss
    /// (loss, tokens)
    #[arg(long, value_name = "FILE")]
    pub details: Option<PathBuf>,

    /// How models are loaded
    #[command(flatten)]
    pub model: ModelArguments,

    /// Most tokens that go through the model at a time [default: 2048, on a GPU 8192]
    #[arg(long, value_name = "N")]
    pub pass_tokens: Option<usize>,

    /// Run the shots again with every question
    #[arg(long)]
    pub no_prefix_cache: bool,

    /// Output, --force, --quiet and --verbose
    #[command(flatten)]
    pub common: cli::Common,
}

impl AsRef<cli::Common> for Arguments {
    fn as_ref(&self) -> &cli::Common {
        &self.common
    }
}

impl Arguments {
    /// Returns the most questions of a subject, or rows of data, that are looked at.
    pub fn limit(&self) -> Option<usize> {
        self.limit.map(|limit| limit as usize)
    }

    /// Returns the part of the questions that is asked.
    pub fn split(&self) -> Split {
        self.split.unwrap_or(self.task.asked)
    }

    /// Returns the most tokens that go through the model at a time on `device`.
    pub fn pass_tokens(&self, device: &Device) -> usize {
        self.pass_tokens.unwrap_or(match device {
            Device::Cpu => HOST_PASS_TOKENS,
            Device::Cuda(_) => GPU_PASS_TOKENS,
        })
    }

    /// Returns the directories that are read of a model: its own and, of an adapter, its base.
    pub fn inputs_of(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        let base = self.model.base_of(directory)?;
        Ok([directory.to_path_buf()].into_iter().chain(base).collect())
    }
}
