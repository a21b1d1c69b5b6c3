//! The options of length, batches, schedule and optimizer.

use clap::Args;
use common::{Error, Result};

use super::checks::{at_least_0, at_least_1, positive};
use crate::config::optimization::{
    BatchSettings, LearningRates, OptimizerName, OptimizerSettings, RandomSettings,
};
use crate::schedule::{Length, ScheduleSettings, SchedulerParameters, SchedulerType, check_steps};

/// The most examples that a step may have.
const LARGEST_BATCH: usize = 1_000_000_000;

/// The options that say how it is trained.
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

    /// Examples per micro-batch; an optimizer step sees this × --gradient-accumulation-steps × GPUs
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

impl OptimizationArguments {
    /// The highest learning rates.
    pub fn rates(&self) -> Result<LearningRates> {
        Ok(LearningRates {
            peak: positive("--learning-rate", self.learning_rate)?,
            ratio_of_b: positive("--loraplus-lr-ratio", self.loraplus_lr_ratio.unwrap_or(1.0))?,
        })
    }

    /// The number of steps that `--max-steps` asks for, if it asks for steps.
    pub fn steps(&self) -> Option<u64> {
        self.max_steps.and_then(|steps| u64::try_from(steps).ok())
    }

    /// The length of the run.
    pub fn length(&self) -> Result<Length> {
        let epochs = positive("--num-train-epochs", self.num_train_epochs)?;
        if let Some(steps) = self.max_steps.filter(|&steps| steps != -1 && steps < 1) {
            return Err(Error::usage(format!("--max-steps: at least 1 expected, or -1, found {steps}")));
        }
        match self.steps() {
            Some(steps) => check_steps(steps).map(Length::Steps),
            None => Ok(Length::Epochs(epochs)),
        }
    }

    /// The examples of a step on `ranks` devices.
    pub fn batch(&self, ranks: usize) -> Result<BatchSettings> {
        let (examples, batches) = (self.per_device_train_batch_size, self.gradient_accumulation_steps);
        let micro_batch = at_least_1("--per-device-train-batch-size", examples)?;
        let accumulation = at_least_1("--gradient-accumulation-steps", batches)?;
        let batch = examples.checked_mul(batches).and_then(|batch| batch.checked_mul(ranks));
        if batch.is_none_or(|batch| batch > LARGEST_BATCH) {
            return Err(Error::usage(format!(
                "--per-device-train-batch-size × --gradient-accumulation-steps: at most {LARGEST_BATCH} examples of a step expected, found {examples} × {batches}"
            ))
            .hint("a step that sees all of the data needs no more than there are examples"));
        }
        Ok(BatchSettings { micro_batch, accumulation, ranks })
    }

    /// How the learning rate rises and falls.
    pub fn schedule(&self) -> Result<ScheduleSettings> {
        if !(0.0..=1.0).contains(&self.warmup_ratio) {
            let found = self.warmup_ratio;
            return Err(Error::usage(format!("--warmup-ratio: a share from 0 to 1 expected, found {found}")));
        }
        let kind = self.lr_scheduler_type;
        Ok(ScheduleSettings {
            kind,
            parameters: SchedulerParameters::parse(
                self.lr_scheduler_kwargs.as_deref(),
                kind,
                self.learning_rate,
            )?,
            warmup_ratio: self.warmup_ratio,
            warmup_steps: at_least_0("--warmup-steps", self.warmup_steps)?,
        })
    }

    /// The optimizer.
    pub fn optimizer(&self) -> Result<OptimizerSettings> {
        for (option, beta) in [("--adam-beta1", self.adam_beta1), ("--adam-beta2", self.adam_beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::usage(format!(
                    "{option}: a decay from 0 to below 1 expected, found {beta}"
                )));
            }
        }
        Ok(OptimizerSettings {
            max_grad_norm: at_least_0("--max-grad-norm", self.max_grad_norm)?,
            weight_decay: at_least_0("--weight-decay", self.weight_decay)?,
            name: self.optim,
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            epsilon: positive("--adam-epsilon", self.adam_epsilon)?,
        })
    }

    /// NEFTune's alpha.
    pub fn neftune_alpha(&self) -> Result<f64> {
        at_least_0("--neftune-noise-alpha", self.neftune_noise_alpha)
    }

    /// The seeds of the run, and whether examples are shuffled.
    pub fn random(&self) -> RandomSettings {
        RandomSettings {
            seed: self.seed,
            data_seed: self.data_seed.unwrap_or(self.seed),
            shuffle: !self.disable_shuffling,
        }
    }
}
