//! Attention on a GPU: flash attention on tensor cores.

mod continued;
mod past;
mod sources;
mod tasks;

use super::{Attended, AttentionSpec};
use crate::Result;
use crate::device::cuda::{Argument, GpuTensor, Grid};
use crate::device::{GpuVector, Tensor, Vector};

pub(super) use continued::ContinuedTasks;
use continued::{FEW_TOKENS, Rows};
pub(super) use past::GpuPast;
use sources::{Blocks, THREADS};
pub(in crate::kernels) use sources::{HOPPER, SOURCES};
pub(super) use tasks::Tasks;

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
        continued::decode(&mut output, qkv, spec, &[(Rows { first: 0, tokens: t }, past)])?;
        return Ok(Attended { output: Tensor::Cuda(output), log_sums: Vector::Cpu(Vec::new()) });
    }
    let mut log_sums = Vector::on_gpu(gpu, t * heads.queries)?;
    by_blocks((&mut output, log_sums.gpu_mut()?), qkv, spec, tasks, past)?;
    Ok(Attended { output: Tensor::Cuda(output), log_sums })
}

/// Attention of sequences that each continue a past of their own, to which their keys and values are then added.
pub(super) fn extend(
    qkv: &GpuTensor,
    spec: AttentionSpec,
    tasks: &ContinuedTasks,
    pasts: Vec<&mut GpuPast>,
) -> Result<Attended> {
    let (gpu, t, heads) = (qkv.gpu(), qkv.shape()[0], spec.heads);
    let mut output = GpuTensor::new(gpu, &[t, heads.queries * heads.size])?;
    let mut decoded = Vec::new();
    for (sequence, past) in tasks.sequences.iter().zip(&pasts) {
        let Some(tasks) = &sequence.tasks else {
            decoded.push((sequence.rows, &**past));
            continue;
        };
        tasks.check(spec)?;
        let mut log_sums = Vector::on_gpu(gpu, t * heads.queries)?;
        let past = Some(&**past).filter(|past| past.len() > 0);
        by_blocks((&mut output, log_sums.gpu_mut()?), qkv, spec, tasks, past)?;
    }
    if !decoded.is_empty() {
        continued::decode(&mut output, qkv, spec, &decoded)?;
    }
    let rows = tasks.sequences.iter().map(|sequence| sequence.rows);
    continued::remember(qkv, heads, rows.zip(pasts).collect())?;
    Ok(Attended { output: Tensor::Cuda(output), log_sums: Vector::Cpu(Vec::new()) })
}

/// Attention of many rows, in blocks, after a past that all of their sequences see. Writes the rows of the tasks.
fn by_blocks(
    (output, log_sums): (&mut GpuTensor, &mut GpuVector),
    qkv: &GpuTensor,
    spec: AttentionSpec,
    tasks: &Tasks,
    past: Option<&GpuPast>,
) -> Result<()> {
    let (gpu, t, heads) = (qkv.gpu(), qkv.shape()[0], spec.heads);
    let kernels = match past {
        Some(past) => Blocks::new(gpu, spec, past.len() + tasks.mean_keys)?,
        None => tasks.kernels,
    };
    let window = window(spec, past.map_or(0, GpuPast::len) + tasks.longest);
    let [keys, values, count, stride] = of_past(past)?;
    let [h, k] = Argument::ints([heads.queries, heads.keys])?;
    let arguments = [
        output.view_mut()?.into(),
        log_sums.view_mut(0..t * heads.queries)?.into(),
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
        kernels.launch(gpu, window.is_some(), "attention_forward", shared, blocks, &arguments)
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
