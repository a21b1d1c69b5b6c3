//! Quantizes a model's linear weights to 4 bits, as bitsandbytes stores them.

mod config;
mod incoming;
mod plan;
mod report;
mod shard;
mod verify;
mod work;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Command, CommandFactory, Parser, ValueEnum};
use common::Result;
use common::cli::{self, Tool};
use common::nf4::{BLOCK_SIZES, QuantType, Scheme};

/// Quantize a model's linear weights to 4 bits, as bitsandbytes stores them
#[derive(Parser, Debug)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Model directory; without it, paths are read from standard input as they arrive
    model: Vec<PathBuf>,

    /// 4-bit type
    #[arg(long, value_enum, default_value = "nf4", value_name = "TYPE")]
    quant_type: Type,

    /// Weights that share a scale: 32, 64, 128 and so on up to 4096
    #[arg(long, default_value_t = 64, value_parser = block_size, value_name = "N")]
    block_size: usize,

    /// Keep the blocks' scales in f32 instead of quantizing them too
    #[arg(long)]
    no_double_quant: bool,

    /// Also keep linear weights whose name matches the regular expression; may be given several times
    #[arg(long, value_name = "PATTERN")]
    keep: Vec<String>,

    /// Type that transformers computes in [default: the model's own]
    #[arg(long, value_enum, value_name = "TYPE")]
    compute_dtype: Option<ComputeDtype>,

    /// Write each weight's error (RMS, largest, signal to noise) to FILE as JSON lines
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Make nothing: check that the 4-bit directory DIR is what --against gives
    #[arg(long, value_name = "DIR", requires = "against", conflicts_with_all = ["model", "output", "report"])]
    verify: Option<PathBuf>,

    /// The original model for --verify
    #[arg(long, value_name = "SOURCE", requires = "verify")]
    against: Option<PathBuf>,

    #[command(flatten)]
    common: cli::Common,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    Nf4,
    Fp4,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ComputeDtype {
    Bfloat16,
    Float16,
    Float32,
}

impl ComputeDtype {
    fn name(self) -> &'static str {
        match self {
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
            Self::Float32 => "float32",
        }
    }
}

fn block_size(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(size) if BLOCK_SIZES.contains(&size) => Ok(size),
        _ => Err(format!("expected one of {BLOCK_SIZES:?}")),
    }
}

impl AsRef<cli::Common> for Arguments {
    fn as_ref(&self) -> &cli::Common {
        &self.common
    }
}

impl Arguments {
    fn options(&self) -> work::Options {
        work::Options {
            scheme: Scheme {
                quant_type: match self.quant_type {
                    Type::Nf4 => QuantType::Nf4,
                    Type::Fp4 => QuantType::Fp4,
                },
                block_size: self.block_size,
                double_quant: !self.no_double_quant,
            },
            keep: self.keep.clone(),
            compute_dtype: self.compute_dtype.map(ComputeDtype::name),
            report: self.report.clone(),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  quantize Qwen2.5-7B-Instruct                      into ./Qwen2.5-7B-Instruct-nf4
  fetch Qwen/Qwen2.5-7B-Instruct | quantize -o q    quantizes each file as it arrives
  quantize --verify q --against DIR                 checks what was made, here or by bitsandbytes
  quantize DIR --keep 'layers\\.0\\.' -o q            leaves the first block as it is

The result loads in transformers with bitsandbytes, and in lora-train, evaluate, chat and merge.
The head, embeddings, norms and biases stay as they are.
Run the same command again to go on after an interruption.";

/// Runs the tool on a command line, the first word of which is the program.
pub fn main(line: Vec<OsString>) -> ExitCode {
    cli::run(Tool { name: "quantize", hint: |_| None }, line, run)
}

/// Returns the tool's command line, from which help, man pages and completions are made.
pub fn command() -> Command {
    Arguments::command()
}

fn run(arguments: Arguments) -> Result<()> {
    if let (Some(directory), Some(source)) = (&arguments.verify, &arguments.against) {
        verify::verify(directory, source)?;
        return cli::print_path(directory);
    }
    let inputs = cli::inputs(&arguments.model)?;
    let options = arguments.options();
    let result = work::quantize(inputs, &options, arguments.common.output, arguments.common.force)?;
    cli::print_path(&result)
}
