//! The command line of `chat`.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Parser};
use common::generate::{OutOfRange, Overrides};
use common::models::ModelArguments;
use common::{Error, Result, cli};

use crate::serve::arguments::ServeArguments;

/// Talk to a model or an adapter.
///
/// On a terminal the conversation goes on until /quit; Ctrl-C stops an answer. Otherwise every line
/// of standard input is a prompt of its own. With -o, what was said is written as training data. With
/// --serve, programs ask over HTTP, and people on a page.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  chat Qwen2.5-7B-Instruct-nf4
  chat out --compare
  chat infer.yaml
  chat model.gguf
  echo 'What is the capital of France?' | chat merged --temperature 0.7 --seed 1
  chat merged --json < conversations.jsonl > answers.jsonl
  chat Qwen2.5-7B-Instruct-nf4 --adapter tuned=out --serve 127.0.0.1:8000"
)]
pub(crate) struct Arguments {
    /// A model (a directory or a GGUF file), an adapter or LLaMA-Factory's infer.yaml; read from standard input where
    /// none is given
    #[arg(value_name = "MODEL")]
    pub source: Option<PathBuf>,

    /// What the system says before the first message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Whether a reasoning model thinks before it answers; its chat template decides where nothing is said
    #[arg(long, value_name = "BOOL")]
    pub enable_thinking: Option<bool>,

    #[command(flatten)]
    pub sampling: SamplingArguments,

    /// Makes sampled answers repeatable
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Lines in and out are JSON: {"messages": [...]} or a list of messages; a message
    #[arg(long)]
    pub json: bool,

    /// Answer with the adapter and without it
    #[arg(long, conflicts_with = "json")]
    pub compare: bool,

    #[command(flatten)]
    pub model: ModelArguments,

    #[command(flatten)]
    pub common: cli::Common,

    // The last, because options after it would come under its heading.
    #[command(flatten)]
    pub serve: ServeArguments,
}

impl Arguments {
    /// Returns the seed of random choices: that of the command line, or else one by the clock.
    pub(crate) fn seed(&self) -> u64 {
        let clock =
            || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        self.seed.unwrap_or_else(clock)
    }
}

impl AsRef<cli::Common> for Arguments {
    fn as_ref(&self) -> &cli::Common {
        &self.common
    }
}

/// The options that choose tokens; what is not given comes from the model's generation_config.json.
#[derive(Args, Debug)]
pub(crate) struct SamplingArguments {
    /// Randomness of the choice: 0 takes the likeliest token
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,

    /// Choose among the likeliest tokens that together have this share
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,

    /// Choose among so many of the likeliest tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Make tokens that were there already less likely, from 1 (not at all)
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f32>,

    /// Most tokens of an answer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
}

impl SamplingArguments {
    /// Returns what the options override.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            do_sample: None,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            repetition_penalty: self.repetition_penalty,
            max_new_tokens: self.max_new_tokens.map(|tokens| tokens as usize),
        }
    }
}

/// Fails where an override makes no sense, and names its option.
pub(crate) fn check(overrides: &Overrides) -> Result<()> {
    overrides.check().map_err(|OutOfRange { key, expected, found }| {
        Error::usage(format!("--{}: {expected} expected, found {found}", key.replace('_', "-")))
    })
}
