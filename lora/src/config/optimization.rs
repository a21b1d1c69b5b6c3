//! AdamW, the batches and learning rates it steps with, and the seeds of a run.

use clap::ValueEnum;
use common::kernels::adamw::AdamW;
use serde::Serialize;
use serde::ser::Serializer;

/// The highest learning rates.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LearningRates {
    /// The highest learning rate.
    #[serde(rename = "learning_rate")]
    pub peak: f64,
    /// The learning rate of B over that of A (LoRA+, arXiv:2402.12354); 1 for plain LoRA.
    #[serde(rename = "loraplus_lr_ratio")]
    pub ratio_of_b: f64,
}

/// The examples of an optimizer step.
#[derive(Debug, Clone, Copy)]
pub struct BatchSettings {
    /// Examples per micro-batch. Only the product with the others matters, because memory decides how a step is
    /// cut into passes.
    pub micro_batch: usize,
    /// Micro-batches of every device per optimizer step.
    pub accumulation: usize,
    /// The number of devices that train together.
    pub ranks: usize,
}

impl BatchSettings {
    /// The number of examples of an optimizer step.
    pub fn effective(self) -> usize {
        self.micro_batch.saturating_mul(self.accumulation).saturating_mul(self.ranks)
    }
}

/// The optimizer, which is AdamW.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct OptimizerSettings {
    /// The gradient norm to clip to; 0 does not clip.
    pub max_grad_norm: f64,
    /// Decoupled weight decay (AdamW), per step times the learning rate.
    pub weight_decay: f64,
    /// How the optimizer keeps its moments. It serializes as their size, which the result depends on.
    #[serde(rename = "moments", serialize_with = "bits")]
    pub name: OptimizerName,
    /// The decay rate β₁ of AdamW's first moment.
    #[serde(rename = "adam_beta1")]
    pub beta1: f64,
    /// The decay rate β₂ of AdamW's second moment.
    #[serde(rename = "adam_beta2")]
    pub beta2: f64,
    /// The number that is added to the root of the second moment.
    #[serde(rename = "adam_epsilon")]
    pub epsilon: f64,
}

impl OptimizerSettings {
    /// AdamW with these settings.
    pub fn adamw(&self) -> AdamW {
        AdamW {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            epsilon: self.epsilon as f32,
            weight_decay: self.weight_decay as f32,
        }
    }
}

fn bits<S: Serializer>(name: &OptimizerName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if name.is_in_8_bits() { "8 bits" } else { "32 bits" })
}

/// The seeds of everything random, and whether examples are shuffled.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RandomSettings {
    /// The seed of initial values, held-out examples, dropout and noise.
    pub seed: u64,
    /// The seed of the shuffling of examples.
    pub data_seed: u64,
    /// Whether every epoch sees the examples in a new order, in place of the order of the data.
    pub shuffle: bool,
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
