//! What is trained: the adapter, and how the model under it is held.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

/// What is trained.
#[derive(Args, Debug, Clone)]
pub struct AdapterArguments {
    /// Rank of the adapters
    #[arg(long, value_name = "R", default_value_t = 8)]
    pub lora_rank: usize,

    /// Numerator of the adapters' scale, alpha / rank [default: 2 × rank]
    #[arg(long, value_name = "ALPHA")]
    pub lora_alpha: Option<f64>,

    /// Share of its input that each adapter does not see in training [default: 0, or that of
    /// --adapter-name-or-path]
    #[arg(long, value_name = "SHARE")]
    pub lora_dropout: Option<f64>,

    /// Linear layers with an adapter: names separated by commas, or all
    #[arg(long, value_name = "NAMES", default_value = "all", value_delimiter = ',')]
    pub lora_target: Vec<String>,

    /// Scale the adapters by alpha / √rank (rsLoRA) in place of alpha / rank
    #[arg(long)]
    pub use_rslora: bool,

    /// How A begins: true draws it uniformly, as PEFT does by default
    #[arg(long, value_name = "HOW", value_enum, default_value_t = InitLoraWeights::True)]
    pub init_lora_weights: InitLoraWeights,

    /// Start from this PEFT adapter in place of a new one
    #[arg(long, value_name = "DIR")]
    pub adapter_name_or_path: Vec<PathBuf>,

    /// Quantize the linear layers to this many bits when the model is loaded; 4-bit models stay as they are
    #[arg(long, value_name = "BITS", value_parser = four)]
    pub quantization_bit: Option<u8>,

    /// The 4-bit type of --quantization-bit
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = QuantizationType::Nf4)]
    pub quantization_type: QuantizationType,

    /// Quantize the scales of --quantization-bit too
    #[arg(long, value_name = "BOOL", default_value_t = true,
        action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new())]
    pub double_quantization: bool,
}

/// Values of PEFT's `init_lora_weights` that leave the base as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InitLoraWeights {
    /// Kaiming uniform with a = √5.
    True,
    /// Normal with a standard deviation of 1 / rank.
    Gaussian,
}

/// bitsandbytes' 4-bit types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantizationType {
    /// 4-bit normal float.
    Nf4,
    /// 4-bit float.
    Fp4,
}

fn four(text: &str) -> Result<u8, String> {
    match text {
        "4" => Ok(4),
        _ => Err("only 4 bits are supported; leave it out to train on the model as it is stored".into()),
    }
}
