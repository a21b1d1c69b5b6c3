//! Folds LoRA adapters into a model's weights.

mod base;
mod companions;
mod directory;
mod export;
mod fold;
mod gguf;
mod gguf_file;
mod modelfile;
mod plan;
mod quality;
mod request;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Command, CommandFactory, Parser};
use common::Result;
use common::cli::{self, Tool};

/// Fold LoRA adapters into a model's weights
#[derive(Parser, Debug)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Adapter directories, or a LLaMA-Factory export.yaml; without any, paths are read from standard input
    adapter: Vec<PathBuf>,

    /// Model to fold into [default: the one that the adapter names]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,

    /// What each adapter counts for, such as 0.5,0.5 [default: 1 each]
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, value_name = "W,…")]
    weights: Vec<f32>,

    /// Largest file of weights, such as 5GB or 500MB [default: 5GB]
    #[arg(long, value_name = "SIZE")]
    shard_size: Option<cli::Size>,

    /// Quantize the merged weights again, as the base was; this loses some of what was learnt
    #[arg(long)]
    requantize: bool,

    /// Type of the weights in a GGUF file [default: 16 bits, as the base has them]
    #[arg(long, value_enum, value_name = "TYPE", conflicts_with = "adapter_gguf")]
    quantize: Option<gguf::Quantization>,

    /// Write the adapter alone as a GGUF file, for llama-cli --lora
    #[arg(long)]
    adapter_gguf: bool,

    /// Compute a sample of rows again from the written files and compare
    #[arg(long)]
    verify: bool,

    #[command(flatten)]
    common: cli::Common,
}

impl AsRef<cli::Common> for Arguments {
    fn as_ref(&self) -> &cli::Common {
        &self.common
    }
}

const EXAMPLES: &str = "\
Examples:
  merge out                                   into ./out-merged, onto the base that the adapter names
  merge out --base Qwen2.5-7B-Instruct        onto the original weights instead of the quantized ones
  merge export.yaml                           as LLaMA-Factory's export does
  merge A B --weights 0.7,0.3 -o both         several adapters
  merge out -o model.gguf --quantize q4_k_m   one file for llama.cpp and Ollama
  merge Qwen2.5-7B-Instruct -o model.gguf     a model without an adapter, in 16 bits
  merge out -o adapter.gguf --adapter-gguf    the adapter alone
  lora-train q --data d.json -o out | merge -o merged | evaluate --data mmlu

The result is a plain model directory, or a GGUF file where -o ends in .gguf; beside it, NAME.Modelfile for
Ollama. From a 4-bit base the weights are dequantized first.";

/// Runs the tool on a command line, the first word of which is the program.
pub fn main(line: Vec<OsString>) -> ExitCode {
    cli::run(Tool { name: "merge", hint: |_| None }, line, run)
}

/// Returns the tool's command line, from which help, man pages and completions are made.
pub fn command() -> Command {
    Arguments::command()
}

fn run(arguments: Arguments) -> Result<()> {
    let paths = cli::inputs(&arguments.adapter)?.directories_or_yaml()?;
    let request = request::Request::new(paths, arguments)?;
    cli::print_path(&match request.gguf {
        Some(content) => gguf_file::export(&request, content)?,
        None => directory::merge(&request)?,
    })
}
