//! Attention on a GPU: flash attention on tensor cores, whose work is cut into tasks here.

use std::sync::Arc;

use cudarc::driver::CudaSlice;

use super::past::GpuPast;
use super::{Attended, Heads, Past};
use crate::device::cuda::{Argument, Gpu, GpuTensor, Grid, Source, address};
use crate::device::{Tensor, Vector};
use crate::{Error, Result, error};

/// The kernels for one head size.
macro_rules! source {
    ($size:literal) => {
        Source {
            name: concat!("attention-", $size),
            text: concat!(
                "#define HEAD_SIZE ",
                $size,
                "\n",
                include_str!("instructions.cuh"),
                include_str!("attention.cuh"),
                include_str!("forward.cu"),
                include_str!("backward.cu"),
                include_str!("decode.cu"),
                include_str!("past.cu"),
            ),
        }
    };
}

pub(in crate::kernels) static SOURCES: [(usize, Source); 4] =
    [(64, source!("64")), (80, source!("80")), (96, source!("96")), (128, source!("128"))];

/// Threads of a block, as attention.cuh has it.
const THREADS: usize = 128;
/// Up to this many new tokens of one sequence behind a past are decoded, the past split over blocks.
const FEW_TOKENS: usize = 8;
/// Blocks that the decoding of one step is split into, for each processor.
const BLOCKS_PER_PROCESSOR: usize = 2;
/// Blocks per processor from which the gradients of keys are not split further.
const FULL: usize = 4;

fn source(heads: Heads) -> Result<&'static Source> {
    SOURCES.iter().find(|(size, _)| *size == heads.size).map(|(_, source)| source).ok_or_else(|| {
        error!("attention on a GPU: heads of 64, 80, 96 or 128 expected, found {}", heads.size)
            .hint("use --device cpu")
    })
}

/// Blocks of rows for the kernels: each a sequence's bounds and the block's first row.
pub struct Tasks {
    /// Blocks of queries, those with the most keys first.
    queries: List,
    /// Blocks of keys, those with the most queries first.
    keys: List,
    sequences: usize,
}

struct List {
    tasks: CudaSlice<i32>,
    len: usize,
}

impl Tasks {
    pub(super) fn new(gpu: &Arc<Gpu>, starts: &[usize], heads: Heads) -> Result<Self> {
        let source = source(heads)?;
        if starts.last().is_some_and(|&t| t > i32::MAX as usize) {
            return Err(Error::new("attention: more tokens than a GPU counts"));
        }
        let rows =
            |name| Ok::<usize, Error>(usize::try_from(gpu.constant(source, name)?).unwrap_or(1).max(1));
        let blocks = |rows: usize| -> Vec<[usize; 3]> {
            let sequences = starts.windows(2).map(|bounds| (bounds[0], bounds[1]));
            sequences
                .flat_map(|(start, end)| (start..end).step_by(rows).map(move |first| [start, end, first]))
                .collect()
        };
        let upload = |tasks: Vec<[usize; 3]>| -> Result<List> {
            let flat: Vec<i32> = tasks
                .iter()
                .flat_map(|task| [task[0], task[1], task[2], 0])
                .map(|value| value as i32)
                .collect();
            Ok(List { tasks: gpu.upload(&flat)?, len: tasks.len() })
        };
        // Stable sorts: the order is the same in every run.
        let mut queries = blocks(rows("attention_forward_rows")?);
        queries.sort_by_key(|[start, _, first]| std::cmp::Reverse(first - start));
        let mut keys = blocks(rows("attention_backward_keys_rows")?);
        keys.sort_by_key(|[_, end, first]| std::cmp::Reverse(end - first));
        let sequences = starts.windows(2).filter(|bounds| bounds[0] < bounds[1]).count();
        Ok(Self { queries: upload(queries)?, keys: upload(keys)?, sequences })
    }
}

pub(super) fn forward(qkv: &GpuTensor, heads: Heads, tasks: &Tasks, past: Option<&Past>) -> Result<Attended> {
    let (gpu, t, source) = (qkv.gpu(), qkv.shape()[0], source(heads)?);
    let past = past.map(Past::gpu).transpose()?;
    let output = GpuTensor::new(gpu, &[t, heads.queries * heads.size])?;
    if let Some(past) = past.filter(|_| t <= FEW_TOKENS && tasks.sequences == 1) {
        decode(&output, qkv, heads, past)?;
        return Ok(Attended { output: Tensor::Cuda(output), log_sums: Vector::Cpu(Vec::new()) });
    }
    let log_sums = Vector::on_gpu(gpu, t * heads.queries)?;
    let shared = shared(gpu, source, "attention_forward_shared_bytes")?;
    let grid = Grid { blocks: (tasks.queries.len * heads.queries, 1, 1), threads: THREADS, shared };
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
        scale(heads).into(),
    ];
    gpu.launch(source, "attention_forward", grid, &arguments)?;
    Ok(Attended { output: Tensor::Cuda(output), log_sums })
}

/// A few rows behind a long past: reading the past is the work, and all processors share it.
fn decode(output: &GpuTensor, qkv: &GpuTensor, heads: Heads, past: &GpuPast) -> Result<()> {
    let (gpu, t, source) = (qkv.gpu(), qkv.shape()[0], source(heads)?);
    let constant =
        |name| Ok::<usize, Error>(usize::try_from(gpu.constant(source, name)?).unwrap_or(1).max(1));
    let (rows, keys_step) = (constant("attention_decode_rows")?, constant("attention_decode_keys")?);
    let row_blocks = (t * heads.queries / heads.keys).div_ceil(rows);
    let keys = past.len + t;
    let wanted = (gpu.multiprocessors() * BLOCKS_PER_PROCESSOR).div_ceil(heads.keys * row_blocks);
    let keys_per_split = keys.div_ceil(wanted).next_multiple_of(keys_step);
    let splits = keys.div_ceil(keys_per_split);
    let partial = gpu.allocate::<f32>(splits * t * heads.queries * heads.size)?;
    let log_sums = gpu.allocate::<f32>(splits * t * heads.queries)?;
    let [past_keys, past_values, count, stride] = of_past(Some(past));
    let shared = shared(gpu, source, "attention_decode_shared_bytes")?;
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
        scale(heads).into(),
    ];
    gpu.launch(source, "attention_decode", grid, &arguments)?;
    let arguments = [output.into(), (&partial).into(), (&log_sums).into(), (splits as i32).into()];
    gpu.launch(source, "attention_decode_combine", Grid::new(t * heads.queries, heads.size), &arguments)
}

pub(super) fn backward(
    doutput: &GpuTensor,
    qkv: &GpuTensor,
    attended: &Attended,
    heads: Heads,
    tasks: &Tasks,
) -> Result<GpuTensor> {
    let (gpu, t, source) = (qkv.gpu(), qkv.shape()[0], source(heads)?);
    let (output, log_sums) = (attended.output.gpu()?, attended.log_sums.gpu()?);
    let dqkv = GpuTensor::new(gpu, qkv.shape())?;
    let rows = t * heads.queries;
    let delta = gpu.allocate::<f32>(rows)?;
    let arguments = [(&delta).into(), doutput.into(), output.into(), (rows as i32).into()];
    gpu.launch(
        source,
        "attention_backward_delta",
        Grid::new(rows.div_ceil(THREADS / 16), THREADS),
        &arguments,
    )?;

    let (h, k) = ((heads.queries as i32).into(), (heads.keys as i32).into());
    let given: [Argument; 4] = [doutput.into(), qkv.into(), log_sums.into(), (&delta).into()];
    let grid = |blocks, name| {
        Ok::<_, Error>(Grid { blocks: (blocks, 1, 1), threads: THREADS, shared: shared(gpu, source, name)? })
    };
    let arguments =
        [&[(&dqkv).into()], &given[..], &[(&tasks.queries.tasks).into(), h, k, scale(heads).into()]].concat();
    let blocks = grid(tasks.queries.len * heads.queries, "attention_backward_queries_shared_bytes")?;
    gpu.launch(source, "attention_backward_queries", blocks, &arguments)?;

    // The query heads of a group are shared among blocks where there are too few blocks otherwise.
    let group = heads.queries / heads.keys;
    let blocks = tasks.keys.len * heads.keys;
    let parts = (gpu.multiprocessors() * FULL).div_ceil(blocks.max(1)).clamp(1, group);
    let partial = gpu.allocate::<f32>(parts * t * 2 * heads.keys * heads.size)?;
    let sizes = [(t as i32).into(), h, k, (parts as i32).into()];
    let arguments =
        [&[(&partial).into()], &given[..], &[(&tasks.keys.tasks).into()], &sizes, &[scale(heads).into()]]
            .concat();
    let grid = grid(blocks * parts, "attention_backward_keys_shared_bytes")?;
    gpu.launch(source, "attention_backward_keys", grid, &arguments)?;
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
    gpu.launch(source(heads)?, "copy_columns", grid, &arguments)
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

fn shared(gpu: &Gpu, source: &'static Source, name: &'static str) -> Result<usize> {
    Ok(usize::try_from(gpu.constant(source, name)?).unwrap_or(0))
}

/// 1/√D
fn scale(heads: Heads) -> f32 {
    1.0 / (heads.size as f32).sqrt()
}
