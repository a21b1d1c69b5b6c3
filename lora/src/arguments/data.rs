//! What the options of the data demand of each other and of the length of the run.

use common::{Error, Result};

use super::checks::at_least_0;
use super::optimization::OptimizationArguments;
use crate::config::optimization::BatchSettings;
use crate::data::DataArguments;

/// Fails where options of the data have values that they cannot have, alone or together.
pub(super) fn check(data: &DataArguments, optimization: &OptimizationArguments) -> Result<()> {
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

/// The data of a run. With `--streaming` no more is read of it than the steps and the held-out examples need
/// and a buffer to choose from.
pub(super) fn settings(
    data: &DataArguments,
    optimization: &OptimizationArguments,
    batch: BatchSettings,
) -> DataArguments {
    let mut data = data.clone();
    let Some(steps) = optimization.steps().filter(|_| data.streaming) else { return data };
    let seen = steps.saturating_mul(batch.effective() as u64).saturating_add(data.buffer_size);
    let rows = match data.val_size {
        share if share < 1.0 => (seen as f64 / (1.0 - share)).ceil() as u64,
        number => seen.saturating_add(number as u64),
    };
    data.max_samples = Some(data.max_samples.unwrap_or(rows).min(rows));
    data
}
