//! Attention on a GPU: flash attention on tensor cores.

mod sources;
mod tasks;

use super::past::GpuPast;
use super::{Attended, AttentionSpec, Heads, Past};
use crate::Result;
use crate::device::cuda::{Argument, Gpu, GpuTensor, Grid, address};
use crate::device::{Tensor, Vector};

use sources::{Blocks, THREADS, constant, source};
pub(in crate::kernels) use sources::{HOPPER, SOURCES};
pub use tasks::Tasks;

/// Up to this many new tokens of one sequence behind a past are decoded, the past split over blocks.
const FEW_TOKENS: usize = 8;
/// Blocks that the decoding of one step is split into, for each processor.
const BLOCKS_PER_PROCESSOR: usize = 2;
/// Keys per processor from which their gradients are not split further.
const KEYS_PER_PROCESSOR: usize = 256;

pub(super) fn forward(
    qkv: &GpuTensor,
    spec: AttentionSpec,
    tasks: &Tasks,
    past: Option<&Past>,
) -> Result<Attended> {
    let heads = spec.heads;
    let (gpu, t) = (qkv.gpu(), qkv.shape()[0]);
    let past = past.map(Past::gpu).transpose()?;
    let output = GpuTensor::new(gpu, &[t, heads.queries * heads.size])?;
    if let Some(past) = past.filter(|_| t <= FEW_TOKENS && tasks.sequences == 1) {
        decode(&output, qkv, spec, past)?;
        return Ok(Attended { output: Tensor::Cuda(output), log_sums: Vector::Cpu(Vec::new()) });
    }
    let log_sums = Vector::on_gpu(gpu, t * heads.queries)?;
    let kernels = match past {
        Some(past) => Blocks::new(gpu, heads, past.len + tasks.mean_keys)?,
        None => tasks.kernels,
    };
    let window = window(spec, past.map_or(0, |past| past.len) + tasks.longest);
    let [keys, values, count, stride] = of_past(past);
    let arguments = [
        (&output).into(),
        log_sums.gpu()?.into(),
        qkv.into(),
        keys,
        values,
        (&tasks.queries.tasks).into(),
        (heads.queries as i32).into(),
        (heads.keys as i32).into(),
        count,
        stride,
        window.unwrap_or(0).into(),
        spec.scale.into(),
    ];
    let blocks = tasks.queries.len * heads.queries;
    let shared = "attention_forward_shared_bytes";
    kernels.launch(gpu, window.is_some(), "attention_forward", shared, blocks, &arguments)?;
    Ok(Attended { output: Tensor::Cuda(output), log_sums })
}

/// A few rows behind a long past: reading the past is the work, and all processors share it.
fn decode(output: &GpuTensor, qkv: &GpuTensor, spec: AttentionSpec, past: &GpuPast) -> Result<()> {
    let (gpu, t, heads) = (qkv.gpu(), qkv.shape()[0], spec.heads);
    let window = window(spec, past.len + t);
    let source = source(heads, window.is_some())?;
    let rows = constant(gpu, source, "attention_decode_rows")?.max(1);
    let keys_step = constant(gpu, source, "attention_decode_keys")?.max(1);
    let row_blocks = (t * heads.queries / heads.keys).div_ceil(rows);
    // Keys that any of the rows sees.
    let keys = past.len + t - window.map_or(0, |_| spec.first_seen(past.len));
    let wanted = (gpu.multiprocessors() * BLOCKS_PER_PROCESSOR).div_ceil(heads.keys * row_blocks);
    let keys_per_split = keys.div_ceil(wanted).next_multiple_of(keys_step);
    let splits = keys.div_ceil(keys_per_split);
    let partial = gpu.allocate::<f32>(splits * t * heads.queries * heads.size)?;
    let log_sums = gpu.allocate::<f32>(splits * t * heads.queries)?;
    let [past_keys, past_values, count, stride] = of_past(Some(past));
    let shared = constant(gpu, source, "attention_decode_shared_bytes")?;
    let grid = Grid { blocks: (splits, heads.keys, row_blocks), threads: THREADS, shared };
    let arguments = [
        (&partial).into(),
        (&log_sums).into(),
        qkv.into(),
        past_keys,
        past_values,
        (t as i32).into(),
        (heads.queries as i32).into(),
        (heads.keys as i32).into(),
        count,
        stride,
        (keys_per_split as i32).into(),
        window.unwrap_or(0).into(),
        spec.scale.into(),
    ];
    gpu.launch(source, "attention_decode", grid, &arguments)?;
    let arguments = [output.into(), (&partial).into(), (&log_sums).into(), (splits as i32).into()];
    gpu.launch(source, "attention_decode_combine", Grid::new(t * heads.queries, heads.size), &arguments)
}

pub(super) fn backward(
    doutput: &GpuTensor,
    qkv: &GpuTensor,
    attended: &Attended,
    spec: AttentionSpec,
    tasks: &Tasks,
) -> Result<GpuTensor> {
    let AttentionSpec { heads, scale, .. } = spec;
    let window = window(spec, tasks.longest);
    let (has_window, source) = (window.is_some(), tasks.kernels.source(window.is_some()));
    let limits = [window.unwrap_or(0).into(), scale.into()];
    let (gpu, t, kernels) = (qkv.gpu(), qkv.shape()[0], tasks.kernels);
    let (output, log_sums) = (attended.output.gpu()?, attended.log_sums.gpu()?);
    let dqkv = GpuTensor::new(gpu, qkv.shape())?;
    let rows = t * heads.queries;
    let delta = gpu.allocate::<f32>(rows)?;
    let arguments = [(&delta).into(), doutput.into(), output.into(), (rows as i32).into()];
    let grid = Grid::new(rows.div_ceil(THREADS / 16), THREADS);
    gpu.launch(source, "attention_backward_delta", grid, &arguments)?;

    let (h, k) = ((heads.queries as i32).into(), (heads.keys as i32).into());
    let given: [Argument; 4] = [doutput.into(), qkv.into(), log_sums.into(), (&delta).into()];
    let arguments =
        [&[(&dqkv).into()], &given[..], &[(&tasks.queries.tasks).into(), h, k], &limits].concat();
    let (name, shared) = ("attention_backward_queries", "attention_backward_queries_shared_bytes");
    kernels.launch(gpu, has_window, name, shared, tasks.queries.len * heads.queries, &arguments)?;

    // The query heads of a group are shared among blocks where there are too few blocks otherwise.
    let group = heads.queries / heads.keys;
    let blocks = tasks.keys.len * heads.keys;
    let parts = (gpu.multiprocessors() * KEYS_PER_PROCESSOR)
        .div_ceil((blocks * tasks.keys.rows).max(1))
        .clamp(1, group);
    let partial = gpu.allocate::<f32>(parts * t * 2 * heads.keys * heads.size)?;
    let sizes = [(t as i32).into(), h, k, (parts as i32).into()];
    let arguments =
        [&[(&partial).into()], &given[..], &[(&tasks.keys.tasks).into()], &sizes, &limits]
            .concat();
    let (name, shared) = ("attention_backward_keys", "attention_backward_keys_shared_bytes");
    kernels.launch(gpu, has_window, name, shared, blocks * parts, &arguments)?;
    let arguments = [&[(&dqkv).into(), (&partial).into()], &sizes[..]].concat();
    let fours = t * 2 * heads.keys * heads.size / 4;
    gpu.launch(source, "attention_backward_sum", Grid::cover(fours, THREADS), &arguments)?;
    Ok(dqkv)
}

/// Copies the keys and values of qkv behind the first `past.len` rows.
pub(super) fn append(qkv: &GpuTensor, heads: Heads, past: &GpuPast) -> Result<()> {
    let (t, columns) = (qkv.shape()[0], heads.keys * heads.size);
    let keys = qkv.address() + 2 * (heads.queries * heads.size) as u64;
    let to = [&past.keys, &past.values].map(|rows| address(rows) + 2 * (past.len * columns) as u64);
    copy_columns(qkv.gpu(), heads, to, [keys, keys + 2 * columns as u64], heads.width(), t)
}

/// Copies all rows of a past to the start of another.
pub(super) fn copy_past(from: &GpuPast, to: &GpuPast, heads: Heads) -> Result<()> {
    let addresses = |past: &GpuPast| [address(&past.keys), address(&past.values)];
    copy_columns(&from.gpu, heads, addresses(to), addresses(from), from.columns, from.len)
}

/// Copies rows of keys and values, `stride` numbers apart, to rows that are not apart.
fn copy_columns(
    gpu: &Gpu,
    heads: Heads,
    to: [u64; 2],
    from: [u64; 2],
    stride: usize,
    rows: usize,
) -> Result<()> {
    let sizes = [stride, heads.keys * heads.size].map(|size| (size as i32).into());
    let arguments = [&to.map(Argument::from)[..], &from.map(Argument::from), &sizes].concat();
    let grid = Grid { blocks: (rows, 2, 1), threads: 128, shared: 0 };
    gpu.launch(source(heads, false)?, "copy_columns", grid, &arguments)
}

/// The buffers, the length and the row stride of a past, or of none.
fn of_past(past: Option<&GpuPast>) -> [Argument; 4] {
    match past {
        Some(past) => [
            (&past.keys).into(),
            (&past.values).into(),
            (past.len as i32).into(),
            (past.columns as i32).into(),
        ],
        None => [Argument::address(None), Argument::address(None), 0.into(), 0.into()],
    }
}

/// The window, where it hides any of `keys` keys of the longest sequence.
fn window(spec: AttentionSpec, keys: usize) -> Option<i32> {
    spec.window.filter(|window| *window < keys).map(|window| window as i32)
}
