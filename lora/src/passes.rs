//! How many tokens a pass through the model may hold.

use common::device::{Device, available_memory};
use common::model::{Model, Plan};
use common::{Result, error};

use crate::config::Config;
use crate::data::store::Selection;
use crate::order::Order;

/// Tokens of a pass on the host: enough that widening the weights is a small part of the work.
const HOST_PASS_TOKENS: usize = 1024;
/// The share of available host memory that activations may take.
const ACTIVATION_SHARE: u64 = 4;
/// Most tokens of a pass on a GPU: more do not make its products faster.
const GPU_PASS_TOKENS: usize = 16384;
/// GPU memory that is left alone: the context, kernels, and what the pool cannot use.
const GPU_MARGIN: u64 = 1 << 30;

/// What passes may hold. On a GPU a whole effective batch is one pass where memory allows, and memory that
/// is left then goes into speed: so many bytes of it. Where adapters `drop` a part of their input, what is
/// left of it needs room too.
pub fn plan(
    config: &Config,
    model: &mut Model,
    training: &Selection,
    order: &Order,
    drop: bool,
) -> Result<(Plan, u64)> {
    let device = &model.device().clone();
    let Device::Cuda(gpu) = device else {
        let budget = available_memory().unwrap_or(4 << 30) / ACTIVATION_SHARE;
        return Ok((model.config().plan(HOST_PASS_TOKENS, budget, device), 0));
    };
    let memory = gpu.memory()?;
    let budget = config.vram_budget.unwrap_or(memory.used + memory.free.saturating_sub(GPU_MARGIN));
    // The gradients, which do not exist yet, are as large as the parameters.
    let gradients = 4 * model.adapters().values.len() as u64;
    let left = budget.saturating_sub(memory.used + gradients);
    // Half as much again as a batch has on average; no example is longer than the cut-off.
    let tokens: usize = training.lengths().into_iter().sum();
    let batch = tokens / order.len().max(1) * config.effective_batch() * 3 / 2;
    let longest =
        usize::try_from(config.data.cutoff_len).unwrap_or(usize::MAX).min(model.config().max_positions);
    let tokens = batch.min(GPU_PASS_TOKENS).max(longest);
    // An input and its gradient in bf16, at the widest.
    let scratch = if drop { 2 * 2 * tokens * model.config().feed_forward } else { 0 };
    let left = left.saturating_sub(scratch as u64);
    let plan = model.config().plan(tokens, left, device);
    if plan.activations() > left {
        return Err(error!(
            "{} MiB of GPU memory are left beside weights and optimizer, and the shortest pass takes {}",
            left >> 20,
            plan.activations() >> 20
        )
        .hint("raise --vram-budget, or close other programs that hold GPU memory (nvidia-smi)"));
    }
    Ok((plan, model.spend_memory(plan.spare())?))
}
