//! What a run does, checked: built from the arguments, and all that the trainer takes.

mod checks;
pub mod every;

use std::path::{Path, PathBuf};

use common::device::DeviceChoice;
use common::device::cuda::Float16;
use common::kernels::adamw::AdamW;
use common::nf4::{QuantType, Scheme};
use common::{Error, Result};
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::arguments::adapter::{AdapterArguments, InitLoraWeights, QuantizationType};
use crate::arguments::optimization::{OptimizationArguments, OptimizerName};
use crate::arguments::reporting::ReportTo;
use crate::config::every::Every;
use crate::data::DataArguments;
use crate::schedule::{SchedulerParameters, SchedulerType};
use crate::yaml::effective::Settings;

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Passes over the data.
    Epochs(f64),
    /// Optimizer steps.
    Steps(u64),
}

/// Where a run begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Begin {
    /// At step 0, where nothing is in the way.
    New,
    /// At step 0, in the place of a finished run.
    Overwriting,
    /// At step 0, in the place of anything.
    Forced,
    /// At the last checkpoint in the output directory.
    Resumed,
    /// At this checkpoint.
    ResumedFrom(PathBuf),
}

/// A run, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Model directory.
    pub model: PathBuf,
    /// Its linear layers are quantized when it is loaded.
    pub quantization: Option<Scheme>,
    /// Where adapters, logs and checkpoints go.
    pub output: PathBuf,
    /// Every option and its value.
    pub settings: Settings,
    /// Where the run begins.
    pub begin: Begin,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// What is trained on.
    pub data: DataArguments,
    /// Rank of new adapters.
    pub rank: usize,
    /// Their scale is alpha / rank.
    pub alpha: f64,
    /// Their scale is alpha / √rank.
    pub rank_stabilized: bool,
    /// Share of an adapter's input that is dropped in training; where it is not said, that of the
    /// adapter the run starts from.
    pub dropout: Option<f64>,
    /// Of NEFTune's noise on the embeddings; 0 adds none.
    pub neftune_alpha: f64,
    /// How A begins.
    pub initialization: InitLoraWeights,
    /// Modules with an adapter; empty means every linear layer of the blocks.
    pub targets: Vec<String>,
    /// Start from this adapter in place of a new one.
    pub adapter: Option<PathBuf>,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// B learns so many times as fast as A.
    pub rate_of_b: f64,
    /// How long.
    pub length: Length,
    /// Examples of a micro-batch; a number for people, because passes are packed by tokens.
    pub micro_batch: usize,
    /// Micro-batches of an optimizer step.
    pub accumulation: usize,
    /// How the learning rate falls.
    pub scheduler: SchedulerType,
    /// Settings of that.
    pub scheduler_parameters: SchedulerParameters,
    /// Share of the steps in which it rises.
    pub warmup_ratio: f64,
    /// Steps in which it rises, or below 1 their share; in place of the ratio unless 0.
    pub warmup_steps: f64,
    /// 0 does not clip.
    pub max_grad_norm: f64,
    /// How AdamW keeps its moments.
    pub optimizer_name: OptimizerName,
    /// Of both moments.
    pub adam_betas: [f64; 2],
    /// Added to the root of the second moment.
    pub adam_epsilon: f64,
    /// Decoupled.
    pub weight_decay: f64,
    /// Of initial values, split, dropout and noise.
    pub seed: u64,
    /// Of the order.
    pub data_seed: u64,
    /// A new order for every epoch.
    pub shuffle: bool,
    /// Steps between log lines.
    pub logging: Every,
    /// Log the first step too.
    pub log_first: bool,
    /// Steps between evaluations.
    pub evaluation: Every,
    /// Evaluate before the first step too.
    pub evaluate_first: bool,
    /// Steps between checkpoints.
    pub saving: Every,
    /// Most checkpoints that are kept.
    pub save_total_limit: Option<usize>,
    /// End with the best checkpoint's adapter.
    pub load_best: bool,
    /// Whether a greater loss is the better one.
    pub greater_is_better: bool,
    /// Stop after so many evaluations that were not the best.
    pub patience: Option<usize>,
    /// Draw the losses.
    pub plot: bool,
    /// Where TensorBoard's event files go.
    pub tensorboard: Option<PathBuf>,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Bytes of GPU memory to stay within.
    pub vram_budget: Option<u64>,
    /// The numbers that a GPU computes with.
    pub float16: Float16,
}

impl Config {
    /// Checks the arguments and waits for the model's path where it comes through a pipe.
    pub fn new(arguments: Arguments, settings: Settings) -> Result<Self> {
        let Arguments { data, adapter, optimization, reporting, .. } = &arguments;
        checks::adapter(adapter)?;
        checks::optimization(optimization)?;
        checks::data(data, optimization)?;
        let every = checks::Reporting::new(reporting, data)?;
        let models: Vec<PathBuf> = arguments.model.clone();
        let model = common::cli::inputs(&models)?.directory()?;
        let model = fs_err::canonicalize(model)?;
        if common::model::is_adapter(&model) {
            return Err(Error::usage(format!("{} is an adapter, not a model", model.display()))
                .hint("name the base as MODEL and the adapter with --adapter-name-or-path"));
        }
        let output = match &arguments.common.output {
            Some(output) => output.clone(),
            None => default_output(&model)?,
        };
        let all = adapter.lora_target.iter().any(|target| target == "all");
        let o = optimization;
        let steps = o.max_steps.and_then(|steps| u64::try_from(steps).ok());
        let reports = reporting.report_to.contains(&ReportTo::Tensorboard);
        Ok(Self {
            quantization: quantization(adapter),
            settings,
            begin: begin(&arguments),
            dry_run: arguments.dry_run,
            data: streamed(data, optimization),
            rank: adapter.lora_rank,
            alpha: adapter.lora_alpha.unwrap_or(2.0 * adapter.lora_rank as f64),
            rank_stabilized: adapter.use_rslora,
            dropout: adapter.lora_dropout,
            neftune_alpha: o.neftune_noise_alpha,
            initialization: adapter.init_lora_weights,
            targets: match all {
                true => Vec::new(),
                false => adapter.lora_target.iter().map(|target| target.trim().to_owned()).collect(),
            },
            adapter: checks::start(&adapter.adapter_name_or_path)?.map(fs_err::canonicalize).transpose()?,
            learning_rate: o.learning_rate,
            rate_of_b: o.loraplus_lr_ratio.unwrap_or(1.0),
            length: steps.map_or(Length::Epochs(o.num_train_epochs), Length::Steps),
            micro_batch: o.per_device_train_batch_size,
            accumulation: o.gradient_accumulation_steps,
            scheduler: o.lr_scheduler_type,
            scheduler_parameters: SchedulerParameters::parse(
                o.lr_scheduler_kwargs.as_deref(),
                o.lr_scheduler_type,
                o.learning_rate,
            )?,
            warmup_ratio: o.warmup_ratio,
            warmup_steps: o.warmup_steps,
            max_grad_norm: o.max_grad_norm,
            optimizer_name: o.optim,
            adam_betas: [o.adam_beta1, o.adam_beta2],
            adam_epsilon: o.adam_epsilon,
            weight_decay: o.weight_decay,
            seed: o.seed,
            data_seed: o.data_seed.unwrap_or(o.seed),
            shuffle: !o.disable_shuffling,
            logging: every.logging,
            log_first: reporting.logging_first_step,
            evaluation: every.evaluation,
            evaluate_first: reporting.eval_on_start,
            saving: every.saving,
            save_total_limit: reporting.save_total_limit,
            load_best: reporting.load_best_model_at_end,
            greater_is_better: reporting.greater_is_better,
            patience: reporting.early_stopping_steps,
            plot: reporting.plot_loss,
            tensorboard: reports
                .then(|| reporting.logging_dir.clone().unwrap_or_else(|| output.join("runs"))),
            device: if arguments.use_cpu { DeviceChoice::Cpu } else { arguments.device },
            vram_budget: arguments.vram_budget.map(|size| size.0),
            float16: if arguments.fp16 { Float16::Fp16 } else { Float16::Bf16 },
            model,
            output,
        })
    }

    /// The optimizer.
    pub fn optimizer(&self) -> AdamW {
        let [beta1, beta2] = self.adam_betas.map(|beta| beta as f32);
        let (epsilon, weight_decay) = (self.adam_epsilon as f32, self.weight_decay as f32);
        AdamW { beta1, beta2, epsilon, weight_decay }
    }

    /// Examples of an optimizer step.
    pub fn effective_batch(&self) -> usize {
        self.micro_batch.saturating_mul(self.accumulation)
    }

    /// Everything the result depends on. `examples` and `held_out` identify the tokenized data, and
    /// with it the tokenizer, the template and the cutoff.
    pub fn recipe(&self, examples: &str, held_out: Option<&str>) -> Value {
        let (epochs, steps) = match self.length {
            Length::Epochs(epochs) => (json!(epochs), Value::Null),
            Length::Steps(steps) => (Value::Null, json!(steps)),
        };
        let quantization = self.quantization.map(|scheme| {
            let fp4 = scheme.quant_type == QuantType::Fp4;
            json!({"type": if fp4 { "fp4" } else { "nf4" }, "double": scheme.double_quant})
        });
        // Evaluations choose the result only where the best checkpoint is, or where they end the run.
        let chooses = self.load_best || self.patience.is_some();
        let choice = json!({
            "examples": held_out, "evaluation": self.evaluation, "saving": self.saving,
            "load_best_model_at_end": self.load_best, "greater_is_better": self.greater_is_better,
            "early_stopping_steps": self.patience,
        });
        json!({
            "model": self.model,
            "fp16": self.float16 == Float16::Fp16,
            "quantization": quantization,
            "examples": examples,
            "val_size": self.data.val_size,
            "packing": self.data.packs(),
            "lora_rank": self.rank,
            "lora_alpha": self.alpha,
            "lora_target": self.targets,
            "use_rslora": self.rank_stabilized,
            "lora_dropout": self.dropout,
            "neftune_noise_alpha": self.neftune_alpha,
            "init_lora_weights": self.initialization,
            "adapter_name_or_path": self.adapter,
            "learning_rate": self.learning_rate,
            "loraplus_lr_ratio": self.rate_of_b,
            "num_train_epochs": epochs,
            "max_steps": steps,
            "effective_batch": self.effective_batch(),
            "lr_scheduler_type": self.scheduler,
            "lr_scheduler_kwargs": self.scheduler_parameters,
            "warmup_ratio": self.warmup_ratio,
            "warmup_steps": self.warmup_steps,
            "max_grad_norm": self.max_grad_norm,
            "weight_decay": self.weight_decay,
            "moments": if self.optimizer_name.is_in_8_bits() { "8 bits" } else { "32 bits" },
            "adam_beta1": self.adam_betas[0],
            "adam_beta2": self.adam_betas[1],
            "adam_epsilon": self.adam_epsilon,
            "seed": self.seed,
            "data_seed": self.data_seed,
            "shuffle": self.shuffle,
            "choice": if chooses { choice } else { Value::Null },
        })
    }
}

fn begin(arguments: &Arguments) -> Begin {
    let from = arguments.resume_from_checkpoint.as_deref().filter(|from| *from != Path::new("false"));
    match from {
        _ if arguments.common.force => Begin::Forced,
        Some(path) if path != Path::new("true") && !arguments.resume => {
            Begin::ResumedFrom(path.to_path_buf())
        }
        Some(_) => Begin::Resumed,
        None if arguments.resume => Begin::Resumed,
        None if arguments.overwrite_output_dir => Begin::Overwriting,
        None => Begin::New,
    }
}

fn quantization(adapter: &AdapterArguments) -> Option<Scheme> {
    let quant_type = match adapter.quantization_type {
        QuantizationType::Nf4 => QuantType::Nf4,
        QuantizationType::Fp4 => QuantType::Fp4,
    };
    let double_quant = adapter.double_quantization;
    adapter.quantization_bit.map(|_| Scheme { quant_type, double_quant, ..Scheme::default() })
}

/// With `--streaming`, data of which no more is read than the steps and the held-out examples need, and
/// a buffer to choose from.
fn streamed(data: &DataArguments, optimization: &OptimizationArguments) -> DataArguments {
    let mut data = data.clone();
    let Some(steps) = optimization.max_steps.and_then(|steps| u64::try_from(steps).ok()) else { return data };
    if data.streaming {
        let batch =
            optimization.per_device_train_batch_size.saturating_mul(optimization.gradient_accumulation_steps);
        let seen = steps.saturating_mul(batch as u64).saturating_add(data.buffer_size);
        let rows = match data.val_size {
            share if share < 1.0 => (seen as f64 / (1.0 - share)).ceil() as u64,
            number => seen.saturating_add(number as u64),
        };
        data.max_samples = Some(data.max_samples.unwrap_or(rows).min(rows));
    }
    data
}

/// `./NAME-lora` for a model in a directory called NAME.
fn default_output(model: &Path) -> Result<PathBuf> {
    let Some(mut output) = common::hub_cache::name_of(model) else {
        return Err(Error::usage(format!("{} has no name to call the output after", model.display()))
            .hint("name the output with -o"));
    };
    output.push("-lora");
    Ok(PathBuf::from(output))
}

#[cfg(test)]
mod tests;
