//! How it is trained: length, batches, schedule and optimizer.

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::schedule::SchedulerType;

/// How it is trained.
#[derive(Args, Debug, Clone)]
pub struct OptimizationArguments {
    /// Highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 5e-5)]
    pub learning_rate: f64,

    /// Learning rate of B over that of A (LoRA+) [default: the same]
    #[arg(long, value_name = "RATIO")]
    pub loraplus_lr_ratio: Option<f64>,

    /// Passes over the data
    #[arg(long, value_name = "EPOCHS", default_value_t = 3.0)]
    pub num_train_epochs: f64,

    /// Optimizer steps, in place of --num-train-epochs; -1 counts epochs
    #[arg(long, value_name = "STEPS", allow_negative_numbers = true)]
    pub max_steps: Option<i64>,

    /// Examples per micro-batch; an optimizer step sees this × --gradient-accumulation-steps
    #[arg(long, value_name = "EXAMPLES", default_value_t = 1)]
    pub per_device_train_batch_size: usize,

    /// Micro-batches per optimizer step
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    pub gradient_accumulation_steps: usize,

    /// How the learning rate falls
    #[arg(long, value_name = "NAME", value_enum, default_value_t = SchedulerType::Linear)]
    pub lr_scheduler_type: SchedulerType,

    /// Settings of the scheduler, as JSON: num_cycles of a cosine, power and lr_end of polynomial
    #[arg(long, value_name = "JSON")]
    pub lr_scheduler_kwargs: Option<String>,

    /// Share of the steps in which the learning rate rises
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub warmup_ratio: f64,

    /// Steps in which the learning rate rises, or below 1 their share; in place of --warmup-ratio unless 0
    #[arg(long, value_name = "STEPS", default_value_t = 0.0)]
    pub warmup_steps: f64,

    /// Clip the gradient to this norm; 0 does not clip
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    pub max_grad_norm: f64,

    /// The optimizer: AdamW with torch's arithmetic, or with bitsandbytes' 8-bit moments
    #[arg(long, value_name = "NAME", value_enum, default_value_t = OptimizerName::Torch)]
    pub optim: OptimizerName,

    /// Decoupled weight decay of AdamW
    #[arg(long, value_name = "DECAY", default_value_t = 0.0)]
    pub weight_decay: f64,

    /// Decay of AdamW's first moment
    #[arg(long, value_name = "BETA", default_value_t = 0.9)]
    pub adam_beta1: f64,

    /// Decay of AdamW's second moment
    #[arg(long, value_name = "BETA", default_value_t = 0.999)]
    pub adam_beta2: f64,

    /// Added to the root of AdamW's second moment
    #[arg(long, value_name = "EPSILON", default_value_t = 1e-8)]
    pub adam_epsilon: f64,

    /// Alpha of NEFTune's noise on the embeddings, within ±alpha / √(tokens of the example × width); 0
    /// adds none
    #[arg(long, value_name = "ALPHA", default_value_t = 0.0)]
    pub neftune_noise_alpha: f64,

    /// Seed of initial values, held-out examples, order, dropout and noise
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    pub seed: u64,

    /// Seed of the order [default: --seed]
    #[arg(long, value_name = "SEED")]
    pub data_seed: Option<u64>,

    /// See the examples in the order of the data in every epoch
    #[arg(long)]
    pub disable_shuffling: bool,
}

/// When something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Never.
    No,
    /// Every so many steps.
    Steps,
    /// After every pass over the data.
    Epoch,
}

/// transformers' names of AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OptimizerName {
    /// Moments in f32.
    #[value(name = "adamw_torch")]
    Torch,
    /// Another name of adamw_torch.
    #[value(name = "adamw_torch_fused")]
    Fused,
    /// Another name of adamw_torch.
    #[value(name = "adamw_hf")]
    HuggingFace,
    /// Moments in 8 bits.
    #[value(name = "adamw_8bit")]
    EightBit,
    /// Another name of adamw_8bit.
    #[value(name = "adamw_bnb_8bit")]
    BitsAndBytes,
    /// Moments in f32, which move to the host where GPU memory runs out; without a GPU as adamw_torch.
    #[value(name = "paged_adamw_32bit", alias = "paged_adamw")]
    Paged,
    /// Moments in 8 bits, which move to the host where GPU memory runs out; without a GPU as adamw_8bit.
    #[value(name = "paged_adamw_8bit")]
    PagedEightBit,
}

impl OptimizerName {
    /// Whether the moments are kept in 8 bits.
    pub fn is_in_8_bits(self) -> bool {
        matches!(self, Self::EightBit | Self::BitsAndBytes | Self::PagedEightBit)
    }

    /// Whether it asks for moments that move to the host where GPU memory runs out.
    pub fn is_paged(self) -> bool {
        matches!(self, Self::Paged | Self::PagedEightBit)
    }
}
