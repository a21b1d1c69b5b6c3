//! The command line, as close to it as can be. Options are named as LLaMA-Factory names them.

use std::path::PathBuf;

use clap::Parser;
use common::cli::Common;
use common::device::DeviceChoice;

use crate::data::DataArguments;
use crate::schedule::SchedulerType;

const EXAMPLES: &str = "\
Examples:
  lora-train qwen-nf4 --data mine.json -o out
  quantize Qwen2.5-7B-Instruct | lora-train --data mine.json --num-train-epochs 2
  lora-train qwen-nf4 --data mine.json -o out --resume";

/// Fine-tunes LoRA adapters on a frozen model and prints the adapter's directory
#[derive(Parser, Debug)]
#[command(name = "lora-train", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// Model directory: NF4, bf16, f16 or f32 [default: read from stdin]
    #[arg(value_name = "MODEL")]
    pub model: Vec<PathBuf>,

    /// What is trained on
    #[command(flatten)]
    pub data: DataArguments,

    /// Examples held out for evaluation: a share below 1, or a number
    #[arg(long, value_name = "SIZE", default_value_t = 0.0)]
    pub val_size: f64,

    /// Rank of the adapters
    #[arg(long, value_name = "R", default_value_t = 8)]
    pub lora_rank: usize,

    /// Numerator of the adapters' scale, alpha / rank [default: 2 × rank]
    #[arg(long, value_name = "ALPHA")]
    pub lora_alpha: Option<f64>,

    /// Linear layers with an adapter: names separated by commas, or all
    #[arg(long, value_name = "NAMES", default_value = "all", value_delimiter = ',')]
    pub lora_target: Vec<String>,

    /// Start from this PEFT adapter in place of a new one
    #[arg(long, value_name = "DIR")]
    pub adapter_name_or_path: Option<PathBuf>,

    /// Highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 5e-5)]
    pub learning_rate: f64,

    /// Passes over the data
    #[arg(long, value_name = "EPOCHS", default_value_t = 3.0)]
    pub num_train_epochs: f64,

    /// Optimizer steps, in place of --num-train-epochs
    #[arg(long, value_name = "STEPS")]
    pub max_steps: Option<u64>,

    /// Examples per micro-batch; an optimizer step sees this × --gradient-accumulation-steps
    #[arg(long, value_name = "EXAMPLES", default_value_t = 1)]
    pub per_device_train_batch_size: usize,

    /// Micro-batches per optimizer step
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    pub gradient_accumulation_steps: usize,

    /// How the learning rate falls
    #[arg(long, value_name = "NAME", value_enum, default_value_t = SchedulerType::Linear)]
    pub lr_scheduler_type: SchedulerType,

    /// Share of the steps in which the learning rate rises
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub warmup_ratio: f64,

    /// Clip the gradient to this norm; 0 does not clip
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    pub max_grad_norm: f64,

    /// Decoupled weight decay of AdamW
    #[arg(long, value_name = "DECAY", default_value_t = 0.0)]
    pub weight_decay: f64,

    /// Seed of initial values, held-out examples and order
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    pub seed: u64,

    /// Steps between lines of trainer_log.jsonl
    #[arg(long, value_name = "STEPS", default_value_t = 10)]
    pub logging_steps: u64,

    /// Steps between evaluations on the held-out examples [default: only at the end]
    #[arg(long, value_name = "STEPS")]
    pub eval_steps: Option<u64>,

    /// Steps between checkpoints
    #[arg(long, value_name = "STEPS", default_value_t = 500)]
    pub save_steps: u64,

    /// Continue from the last checkpoint in the output directory
    #[arg(long, conflicts_with = "force")]
    pub resume: bool,

    /// Where to compute: auto or cpu
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,

    /// Output, --force, --quiet and --verbose
    #[command(flatten)]
    pub common: Common,
}

impl AsRef<Common> for Arguments {
    fn as_ref(&self) -> &Common {
        &self.common
    }
}
