//! Attention on a GPU: flash attention on tensor cores.

mod past;
mod sources;
mod tasks;

use super::{Attended, AttentionSpec};
use crate::Result;
use crate::device::cuda::{Argument, GpuTensor, Grid};
use crate::device::{GpuVector, Tensor, Vector};

pub(super) use past::GpuPast;
use sources::{Blocks, THREADS, constant, source};
pub(in crate::kernels) use sources::{HOPPER, SOURCES};
pub(super) use tasks::Tasks;

/// Up to this many new tokens of one sequence after a past are decoded, the past split over blocks.
const FEW_TOKENS: usize = 8;
/// Blocks that the decoding of one step is split into, for each processor.
const BLOCKS_PER_PROCESSOR: usize = 2;
/// Keys per processor from which their gradients are not split further.
const KEYS_PER_PROCESSOR: usize = 256;

pub(super) fn forward(
    qkv: &GpuTensor,
    spec: AttentionSpec,
    tasks: &Tasks,
    past: Option<&GpuPast>,
) -> Result<Attended> {
    let heads = spec.heads;
    tasks.check(spec)?;
    let (gpu, t) = (qkv.gpu(), qkv.shape()[0]);
    let mut output = GpuTensor::new(gpu, &[t, heads.queries * heads.size])?;
    if let Some(past) = past.filter(|_| t <= FEW_TOKENS && tasks.sequences == 1) {
        decode(&mut output, qkv, spec, past)?;
        return Ok(Attended { output: Tensor::Cuda(output), log_sums: Vector::Cpu(Vec::new()) });
    }
    let mut log_sums = Vector::on_gpu(gpu, t * heads.queries)?;
    let kernels = match past {
        Some(past) => Blocks::new(gpu, spec, past.len() + tasks.mean_keys)?,
        None => tasks.kernels,
    };
    let window = window(spec, past.map_or(0, GpuPast::len) + tasks.longest);
    let [keys, values, count, stride] = of_past(past)?;
    let [h, k] = Argument::ints([heads.queries, heads.keys])?;
    let arguments = [
        output.view_mut()?.into(),
        log_sums.gpu_mut()?.view_mut(0..t * heads.queries)?.into(),
        qkv.view()?.into(),
        keys,
        values,
        (&tasks.queries.tasks).into(),
        h,
        k,
        count,
        stride,
        Argument::int(window.unwrap_or(0))?,
        spec.scale.into(),
        cap(spec).into(),
    ];
    let (blocks, shared) = (tasks.queries.len * heads.queries, "attention_forward_shared_bytes");
    // SAFETY: `attention_forward(out [T, H·D], log_sums [T, H], qkv [T, (H + 2K)·D], past keys and values [P, K·D] or
    // null, tasks, H, K, P, stride, window, scale, cap)` with a block for each task of each query head. Tasks are rows below T, as
    // `check_starts` in mod.rs has seen to.
    #[allow(unsafe_code)]
    unsafe {
        kernels.launch(gpu, window.is_some(), "attention_forward", shared, blocks, &arguments)?;
    }
    Ok(Attended { output: Tensor::Cuda(output), log_sums })
}

/// A few rows after a long past: reading the past is the work, and all processors share it.
fn decode(output: &mut GpuTensor, qkv: &GpuTensor, spec: AttentionSpec, past: &GpuPast) -> Result<()> {
    let (gpu, t, heads) = (qkv.gpu(), qkv.shape()[0], spec.heads);
    let window = window(spec, past.len() + t);
    let source = source(heads, window.is_some(), spec.softcap.is_some())?;
    let threads = constant(gpu, source, "attention_decode_threads")?;
    let rows = constant(gpu, source, "attention_decode_rows")?.max(1);
    let keys_step = constant(gpu, source, "attention_decode_keys")?.max(1);
    let row_blocks = (t * heads.queries / heads.keys).div_ceil(rows);
    // Keys that any of the rows sees.
    let keys = past.len() + t - window.map_or(0, |_| spec.first_seen(past.len()));
    let wanted = (gpu.multiprocessors() * BLOCKS_PER_PROCESSOR).div_ceil(heads.keys * row_blocks);
    let keys_per_split = keys.div_ceil(wanted).next_multiple_of(keys_step);
    let splits = keys.div_ceil(keys_per_split);
    let mut partial = gpu.allocate::<f32>(splits * t * heads.queries * heads.size)?;
    let mut log_sums = gpu.allocate::<f32>(splits * t * heads.queries)?;
    let [past_keys, past_values, count, stride] = of_past(Some(past))?;
    let [tokens, h, k, of_split] = Argument::ints([t, heads.queries, heads.keys, keys_per_split])?;
    let shared = constant(gpu, source, "attention_decode_shared_bytes")?;
    let grid = Grid { blocks: (splits, heads.keys, row_blocks), threads, shared };
    let arguments = [
        (&mut partial).into(),
        (&mut log_sums).into(),
        qkv.view()?.into(),
        past_keys,
        past_values,
        tokens,
        h,
        k,
        count,
        stride,
        of_split,
        Argument::int(window.unwrap_or(0))?,
        spec.scale.into(),
        cap(spec).into(),
    ];
    // SAFETY: `attention_decode(split_out [splits, T, H·D], split_log_sums [splits, T, H], qkv [T, (H + 2K)·D], past keys
    // and values [P, K·D], T, H, K, P, stride, keys of a split, window, scale, cap)` with a block for each split, key head and
    // block of the T·H/K rows.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(source, "attention_decode", grid, &arguments)?
    };
    let arguments =
        [output.view_mut()?.into(), (&partial).into(), (&log_sums).into(), Argument::int(splits)?];
    let grid = Grid::new(t * heads.queries, heads.size);
    // SAFETY: `attention_decode_combine(out [T, H·D], split_out [splits, T, H·D], split_log_sums [splits, T, H], splits)`
    // with T·H blocks of D threads.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(source, "attention_decode_combine", grid, &arguments)
    }
}

pub(super) fn backward(
    doutput: &GpuTensor,
    qkv: &GpuTensor,
    (output, log_sums): (&GpuTensor, &GpuVector),
    spec: AttentionSpec,
    tasks: &Tasks,
) -> Result<GpuTensor> {
    let AttentionSpec { heads, scale, .. } = spec;
    tasks.check(spec)?;
    let window = window(spec, tasks.longest);
    let (has_window, source) = (window.is_some(), tasks.kernels.source(window.is_some()));
    let limits = [Argument::int(window.unwrap_or(0))?, scale.into(), cap(spec).into()];
    let (gpu, t, kernels) = (qkv.gpu(), qkv.shape()[0], tasks.kernels);
    let mut dqkv = GpuTensor::new(gpu, qkv.shape())?;
    let rows = t * heads.queries;
    let mut delta = gpu.allocate::<f32>(rows)?;
    let arguments =
        [(&mut delta).into(), doutput.view()?.into(), output.view()?.into(), Argument::int(rows)?];
    let grid = Grid::new(rows.div_ceil(THREADS / 16), THREADS);
    // SAFETY: `attention_backward_delta(delta [T, H], dout [T, H·D], out [T, H·D], T·H)`, 16 threads for each row of a
    // head.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(source, "attention_backward_delta", grid, &arguments)?
    };

    let [tokens, h, k] = Argument::ints([t, heads.queries, heads.keys])?;
    let given: [Argument<'_>; 4] =
        [doutput.view()?.into(), qkv.view()?.into(), log_sums.view(0..rows)?.into(), (&delta).into()];
    let blocks = [(&tasks.queries.tasks).into(), h, k];
    let arguments = [&[dqkv.view_mut()?.into()], &given[..], &blocks, &limits].concat();
    let (name, shared) = ("attention_backward_queries", "attention_backward_queries_shared_bytes");
    // SAFETY: `attention_backward_queries(dqkv [T, (H + 2K)·D], dout [T, H·D], qkv [T, (H + 2K)·D], log_sums [T, H],
    // delta [T, H], tasks, H, K, window, scale, cap)` with a block for each task of each query head.
    #[allow(unsafe_code)]
    unsafe {
        kernels.launch(gpu, has_window, name, shared, tasks.queries.len * heads.queries, &arguments)?
    };

    // The query heads of a group are shared among blocks where there are too few blocks otherwise.
    let group = heads.queries / heads.keys;
    let blocks = tasks.keys.len * heads.keys;
    let parts = (gpu.multiprocessors() * KEYS_PER_PROCESSOR)
        .div_ceil((blocks * tasks.keys.rows).max(1))
        .clamp(1, group);
    let mut partial = gpu.allocate::<f32>(parts * t * 2 * heads.keys * heads.size)?;
    let sizes = [tokens, h, k, Argument::int(parts)?];
    let arguments =
        [&[(&mut partial).into()], &given[..], &[(&tasks.keys.tasks).into()], &sizes, &limits].concat();
    let (name, shared) = ("attention_backward_keys", "attention_backward_keys_shared_bytes");
    // SAFETY: `attention_backward_keys(dkeys_values [parts, T, 2K·D], dout [T, H·D], qkv [T, (H + 2K)·D], log_sums [T, H],
    // delta [T, H], tasks, T, H, K, parts, window, scale, cap)` with a block for each part of each task of each key head.
    #[allow(unsafe_code)]
    unsafe {
        kernels.launch(gpu, has_window, name, shared, blocks * parts, &arguments)?
    };
    let arguments = [&[dqkv.view_mut()?.into(), (&partial).into()], &sizes[..]].concat();
    let grid = Grid::cover(t * 2 * heads.keys * heads.size / 4, THREADS);
    // SAFETY: `attention_backward_sum(dqkv [T, (H + 2K)·D], dkeys_values [parts, T, 2K·D], T, H, K, parts)`, a thread for
    // each four of the T·2K·D columns.
    #[allow(unsafe_code)]
    unsafe {
        gpu.launch(source, "attention_backward_sum", grid, &arguments)?
    };
    Ok(dqkv)
}

/// The buffers, the length and the row stride of a past, or of none.
fn of_past(past: Option<&GpuPast>) -> Result<[Argument<'_>; 4]> {
    match past {
        Some(past) => past.arguments(),
        None => Ok([Argument::null(), Argument::null(), 0.into(), 0.into()]),
    }
}

/// What the kernels cap: scores before their scale. They do not look at it where there is no soft cap.
fn cap(spec: AttentionSpec) -> f32 {
    spec.softcap.map_or(0.0, |softcap| softcap / spec.scale)
}

/// The window, where it hides any of `keys` keys of the longest sequence.
fn window(spec: AttentionSpec, keys: usize) -> Option<usize> {
    spec.window.filter(|window| *window < keys)
}
