//! Values that options cannot have, alone or together; errors name the option.

use std::path::PathBuf;

use common::{Error, Result, cli};

use crate::arguments::adapter::AdapterArguments;
use crate::arguments::optimization::{OptimizationArguments, Strategy};
use crate::arguments::reporting::ReportingArguments;
use crate::config::every::Every;
use crate::data::DataArguments;
use crate::run::adapters::ALL;
use crate::schedule::check_steps;

/// Most examples of a step.
const LARGEST_BATCH: usize = 1_000_000_000;

/// What is trained.
pub fn adapter(adapter: &AdapterArguments) -> Result<()> {
    at_least_1("--lora-rank", adapter.lora_rank)?;
    positive("--lora-alpha", adapter.lora_alpha.unwrap_or(1.0))?;
    match adapter.lora_dropout {
        Some(found) if !(0.0..1.0).contains(&found) => {
            Err(Error::usage(format!("--lora-dropout: a share from 0 to below 1 expected, found {found}")))
        }
        _ => targets(&adapter.lora_target),
    }
}

/// Beside `all` nothing can be named that it does not mean.
fn targets(targets: &[String]) -> Result<()> {
    let mut names = targets.iter().map(|target| target.trim());
    if !names.clone().any(|name| name == "all") {
        return Ok(());
    }
    let is_meant = |name: &str| name == "all" || ALL.contains(&name.rsplit('.').next().unwrap_or(name));
    match names.find(|name| !is_meant(name)) {
        Some(other) => {
            Err(Error::usage(format!("--lora-target: {other:?} beside all is no linear layer of the blocks"))
                .hint(format!("all means {}; only these are trained", ALL.join(", "))))
        }
        None => Ok(()),
    }
}

/// The adapter that a run starts from. LLaMA-Factory takes several, of which it trains the last.
pub fn start(paths: &[PathBuf]) -> Result<Option<PathBuf>> {
    if let [path] = paths
        && path.exists()
    {
        return Ok(Some(path.clone()));
    }
    let texts = paths.iter().map(|path| path.to_string_lossy());
    let names: Vec<String> = texts
        .flat_map(|text| text.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>())
        .filter(|name| !name.is_empty())
        .collect();
    match &names[..] {
        [] => Ok(paths.first().cloned()),
        [name] => Ok(Some(name.into())),
        [first, .., last] => Err(Error::usage(format!(
            "--adapter-name-or-path: one adapter expected, found {}: {}",
            names.len(),
            names.join(", ")
        ))
        .hint(format!(
            "fold the others into the model first: merge {} -o merged, then lora-train merged --adapter-name-or-path {}",
            cli::quoted(first),
            cli::quoted(last)
        ))),
    }
}

/// How it is trained.
pub fn optimization(a: &OptimizationArguments) -> Result<()> {
    positive("--learning-rate", a.learning_rate)?;
    positive("--loraplus-lr-ratio", a.loraplus_lr_ratio.unwrap_or(1.0))?;
    positive("--num-train-epochs", a.num_train_epochs)?;
    positive("--adam-epsilon", a.adam_epsilon)?;
    at_least_0("--max-grad-norm", a.max_grad_norm)?;
    at_least_0("--weight-decay", a.weight_decay)?;
    at_least_0("--neftune-noise-alpha", a.neftune_noise_alpha)?;
    at_least_0("--warmup-steps", a.warmup_steps)?;
    if let Some(steps) = a.max_steps.filter(|&steps| steps != -1 && steps < 1) {
        return Err(Error::usage(format!("--max-steps: at least 1 expected, or -1, found {steps}")));
    }
    check_steps(a.max_steps.and_then(|steps| u64::try_from(steps).ok()).unwrap_or(1))?;
    let [examples, batches] = [a.per_device_train_batch_size, a.gradient_accumulation_steps];
    at_least_1("--per-device-train-batch-size", examples)?;
    at_least_1("--gradient-accumulation-steps", batches)?;
    if examples.checked_mul(batches).is_none_or(|batch| batch > LARGEST_BATCH) {
        return Err(Error::usage(format!(
            "--per-device-train-batch-size × --gradient-accumulation-steps: at most {LARGEST_BATCH} examples of a step expected, found {examples} × {batches}"
        ))
        .hint("a step that sees all of the data needs no more than there are examples"));
    }
    if !(0.0..=1.0).contains(&a.warmup_ratio) {
        let found = a.warmup_ratio;
        return Err(Error::usage(format!("--warmup-ratio: a share from 0 to 1 expected, found {found}")));
    }
    for (option, beta) in [("--adam-beta1", a.adam_beta1), ("--adam-beta2", a.adam_beta2)] {
        if !(0.0..1.0).contains(&beta) {
            return Err(Error::usage(format!("{option}: a decay from 0 to below 1 expected, found {beta}")));
        }
    }
    Ok(())
}

/// What it is trained on.
pub fn data(data: &DataArguments, optimization: &OptimizationArguments) -> Result<()> {
    at_least_0("--val-size", data.val_size)?;
    if data.data.is_empty() && data.dataset.is_empty() {
        return Err(Error::usage("nothing to train on")
            .hint("--data names a file of examples, --dataset an entry of dataset_info.json"));
    }
    if data.packs() && data.cutoff_len < 2 {
        return Err(Error::usage("--packing: a --cutoff-len of at least 2 expected, found 1"));
    }
    if data.streaming && optimization.max_steps.is_none_or(|steps| steps < 1) {
        return Err(Error::usage("--streaming without --max-steps")
            .hint("say how long the run is with --max-steps; without --streaming all data is read first"));
    }
    if data.streaming && data.packs() {
        return Err(Error::usage("--streaming and --packing exclude each other")
            .hint("packs are chosen from all examples; --max-samples limits what is read"));
    }
    if data.mask_history && data.train_on_prompt {
        return Err(Error::usage("--mask-history and --train-on-prompt exclude each other"));
    }
    if data.val_size > 0.0 && !(data.eval_data.is_empty() && data.eval_dataset.is_empty()) {
        return Err(Error::usage("--val-size beside --eval-dataset or --eval-data")
            .hint("hold out a part of the training data or other data, not both"));
    }
    Ok(())
}

/// When things are done.
pub struct Reporting {
    pub logging: Every,
    pub evaluation: Every,
    pub saving: Every,
}

impl Reporting {
    /// Checks that what is asked for has something to work on.
    pub fn new(a: &ReportingArguments, data: &DataArguments) -> Result<Self> {
        let logging = Every::Steps(steps("--logging-steps", a.logging_steps)?);
        let steps_or = |option, given: f64, strategy| -> Result<Every> {
            match strategy {
                Strategy::No => Ok(Every::Never),
                Strategy::Steps => Ok(Every::Steps(steps(option, given)?)),
                Strategy::Epoch => Ok(Every::Epoch),
            }
        };
        let strategy = match (a.eval_strategy, a.eval_steps) {
            (Some(strategy), _) => strategy,
            (None, Some(_)) => Strategy::Steps,
            (None, None) => Strategy::No,
        };
        let evaluation = steps_or("--eval-steps", a.eval_steps.unwrap_or(a.logging_steps), strategy)?;
        let saving = steps_or("--save-steps", a.save_steps, a.save_strategy)?;
        let asked = match strategy {
            Strategy::No => {
                [("--eval-on-start", a.eval_on_start), ("--load-best-model-at-end", a.load_best_model_at_end)]
                    .into_iter()
                    .find_map(|(option, asked)| asked.then_some(option))
            }
            _ if a.eval_strategy.is_some() => Some("--eval-strategy"),
            _ => Some("--eval-steps"),
        };
        if let Some(option) = asked
            && !data.holds_out()
        {
            return Err(Error::usage(format!("{option} without held-out examples"))
                .hint("add --val-size 0.1, or name other data with --eval-dataset"));
        }
        at_least_1("--save-total-limit", a.save_total_limit.unwrap_or(1))?;
        at_least_1("--early-stopping-steps", a.early_stopping_steps.unwrap_or(1))?;
        if a.early_stopping_steps.is_some() && evaluation == Every::Never {
            return Err(Error::usage("--early-stopping-steps without evaluations").hint("add --eval-steps"));
        }
        if a.load_best_model_at_end && !saves_what_is_evaluated(evaluation, saving) {
            return Err(Error::usage("--load-best-model-at-end: every checkpoint has to be evaluated").hint(
                "make --save-steps a multiple of --eval-steps, or give both strategies the same value",
            ));
        }
        Ok(Self { logging, evaluation, saving })
    }
}

/// Whether checkpoints fall on evaluations, as transformers demands.
fn saves_what_is_evaluated(evaluation: Every, saving: Every) -> bool {
    match (evaluation, saving) {
        (Every::Steps(evaluation), Every::Steps(saving)) if evaluation >= 1.0 && saving >= 1.0 => {
            saving % evaluation == 0.0
        }
        (Every::Never, _) | (_, Every::Never) => false,
        (evaluation, saving) => evaluation == saving,
    }
}

/// A number of steps, or a share of them.
fn steps(option: &str, value: f64) -> Result<f64> {
    positive(option, value)?;
    match value < 1.0 || value.fract() == 0.0 {
        true => Ok(value),
        false => {
            Err(Error::usage(format!("{option}: a whole number, or a share below 1 expected, found {value}")))
        }
    }
}

fn at_least_1(option: &str, value: usize) -> Result<()> {
    match value >= 1 {
        true => Ok(()),
        false => Err(Error::usage(format!("{option}: at least 1 expected, found {value}"))),
    }
}

fn positive(option: &str, value: f64) -> Result<()> {
    match value > 0.0 {
        true => within_f32(option, value),
        false => Err(Error::usage(format!("{option}: a positive number expected, found {value}"))),
    }
}

fn at_least_0(option: &str, value: f64) -> Result<()> {
    match value >= 0.0 {
        true => within_f32(option, value),
        false => Err(Error::usage(format!("{option}: a number of at least 0 expected, found {value}"))),
    }
}

/// Values are computed with in f32, in which more than 3.4·10³⁸ is infinite.
fn within_f32(option: &str, value: f64) -> Result<()> {
    match (value as f32).is_finite() {
        true => Ok(()),
        false => {
            Err(Error::usage(format!("{option}: a number below {:e} expected, found {value:e}", f32::MAX)))
        }
    }
}
