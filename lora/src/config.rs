//! What a run does, checked: built from the arguments, and all that the trainer takes.

use std::path::{Path, PathBuf};

use common::device::DeviceChoice;
use common::kernels::adamw::AdamW;
use common::{Error, Result};
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::data::DataArguments;
use crate::schedule::SchedulerType;

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Passes over the data.
    Epochs(f64),
    /// Optimizer steps.
    Steps(u64),
}

/// A run, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Model directory.
    pub model: PathBuf,
    /// Where adapters, logs and checkpoints go.
    pub output: PathBuf,
    /// Replace what is in `output`.
    pub force: bool,
    /// Continue from the last checkpoint in `output`.
    pub resume: bool,
    /// What is trained on.
    pub data: DataArguments,
    /// Share (below 1) or number of held-out examples.
    pub val_size: f64,
    /// Rank of new adapters.
    pub rank: usize,
    /// Their scale is alpha / rank.
    pub alpha: f64,
    /// Modules with an adapter; empty means every linear layer of the blocks.
    pub targets: Vec<String>,
    /// Start from this adapter in place of a new one.
    pub adapter: Option<PathBuf>,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// How long.
    pub length: Length,
    /// Examples of a micro-batch; a number for people, because passes are packed by tokens.
    pub micro_batch: usize,
    /// Micro-batches of an optimizer step.
    pub accumulation: usize,
    /// How the learning rate falls.
    pub scheduler: SchedulerType,
    /// Share of the steps in which it rises.
    pub warmup_ratio: f64,
    /// 0 does not clip.
    pub max_grad_norm: f64,
    /// The optimizer.
    pub optimizer: AdamW,
    /// Of initial values, split and order.
    pub seed: u64,
    /// Steps between log lines.
    pub logging_steps: u64,
    /// Steps between evaluations.
    pub eval_steps: Option<u64>,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// Where to compute.
    pub device: DeviceChoice,
}

impl Config {
    /// Checks the arguments and waits for the model's path where it comes through a pipe.
    pub fn new(arguments: Arguments) -> Result<Self> {
        let positive = |option: &str, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(Error::usage(format!("{option}: a positive number expected, found {value}"))),
        };
        let at_least_0 = |option: &str, value: f64| match value >= 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(Error::usage(format!("{option}: a number of at least 0 expected, found {value}"))),
        };
        let a = &arguments;
        positive("--learning-rate", a.learning_rate)?;
        positive("--num-train-epochs", a.num_train_epochs)?;
        positive("--lora-alpha", a.lora_alpha.unwrap_or(1.0))?;
        at_least_0("--max-grad-norm", a.max_grad_norm)?;
        at_least_0("--weight-decay", a.weight_decay)?;
        at_least_0("--val-size", a.val_size)?;
        if !(0.0..=1.0).contains(&a.warmup_ratio) {
            return Err(Error::usage(format!(
                "--warmup-ratio: a share from 0 to 1 expected, found {}",
                a.warmup_ratio
            )));
        }
        for (option, value) in [
            ("--lora-rank", a.lora_rank as u64),
            ("--per-device-train-batch-size", a.per_device_train_batch_size as u64),
            ("--gradient-accumulation-steps", a.gradient_accumulation_steps as u64),
            ("--logging-steps", a.logging_steps),
            ("--save-steps", a.save_steps),
            ("--eval-steps", a.eval_steps.unwrap_or(1)),
            ("--max-steps", a.max_steps.unwrap_or(1)),
        ] {
            if value == 0 {
                return Err(Error::usage(format!("{option}: at least 1 expected, found 0")));
            }
        }
        if a.eval_steps.is_some() && a.val_size == 0.0 {
            return Err(Error::usage("--eval-steps without held-out examples").hint("add --val-size 0.1"));
        }
        let model = common::cli::inputs(&arguments.model)?.directory()?;
        let model = fs_err::canonicalize(model)?;
        if common::model::is_adapter(&model) {
            return Err(Error::usage(format!("{} is an adapter, not a model", model.display()))
                .hint("name the base as MODEL and the adapter with --adapter-name-or-path"));
        }
        let output = match arguments.common.output {
            Some(output) => output,
            None => default_output(&model)?,
        };
        let all = arguments.lora_target.iter().any(|target| target == "all");
        Ok(Self {
            output,
            force: arguments.common.force,
            resume: arguments.resume,
            data: arguments.data,
            val_size: arguments.val_size,
            rank: arguments.lora_rank,
            alpha: arguments.lora_alpha.unwrap_or(2.0 * arguments.lora_rank as f64),
            targets: if all { Vec::new() } else { arguments.lora_target },
            adapter: arguments.adapter_name_or_path.map(fs_err::canonicalize).transpose()?,
            learning_rate: arguments.learning_rate,
            length: match arguments.max_steps {
                Some(steps) => Length::Steps(steps),
                None => Length::Epochs(arguments.num_train_epochs),
            },
            micro_batch: arguments.per_device_train_batch_size,
            accumulation: arguments.gradient_accumulation_steps,
            scheduler: arguments.lr_scheduler_type,
            warmup_ratio: arguments.warmup_ratio,
            max_grad_norm: arguments.max_grad_norm,
            optimizer: AdamW {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: arguments.weight_decay as f32,
            },
            seed: arguments.seed,
            logging_steps: arguments.logging_steps,
            eval_steps: arguments.eval_steps,
            save_steps: arguments.save_steps,
            device: arguments.device,
            model,
        })
    }

    /// Examples of an optimizer step.
    pub fn effective_batch(&self) -> usize {
        self.micro_batch.saturating_mul(self.accumulation)
    }

    /// Everything the result depends on. `examples` identifies the tokenized data, and with it the
    /// tokenizer, the template and the cutoff.
    pub fn recipe(&self, examples: &str) -> Value {
        let (epochs, steps) = match self.length {
            Length::Epochs(epochs) => (json!(epochs), Value::Null),
            Length::Steps(steps) => (Value::Null, json!(steps)),
        };
        json!({
            "model": self.model,
            "examples": examples,
            "val_size": self.val_size,
            "lora_rank": self.rank,
            "lora_alpha": self.alpha,
            "lora_target": self.targets,
            "adapter_name_or_path": self.adapter,
            "learning_rate": self.learning_rate,
            "num_train_epochs": epochs,
            "max_steps": steps,
            "effective_batch": self.effective_batch(),
            "lr_scheduler_type": self.scheduler,
            "warmup_ratio": self.warmup_ratio,
            "max_grad_norm": self.max_grad_norm,
            "weight_decay": self.optimizer.weight_decay,
            "seed": self.seed,
        })
    }
}

/// `./NAME-lora` for a model in a directory called NAME.
fn default_output(model: &Path) -> Result<PathBuf> {
    let Some(name) = model.file_name() else {
        return Err(Error::usage(format!("{} has no name to call the output after", model.display()))
            .hint("name the output with -o"));
    };
    let mut output = name.to_os_string();
    output.push("-lora");
    Ok(PathBuf::from(output))
}
