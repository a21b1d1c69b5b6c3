//! Sequences that each continue a past of their own: their attention, and their keys and values after those of the past.

use super::past::GpuPast;
use super::sources::{constant, source};
use super::tasks::Tasks;
use super::{cap, window};
use crate::Result;
use crate::device::cuda::{Argument, Gpu, GpuTensor, Grid};
use crate::kernels::attention::{AttentionSpec, Heads};

/// Up to this many new tokens of a sequence after a past are decoded, the past split over blocks.
pub(super) const FEW_TOKENS: usize = 8;
/// Blocks that the decoding of one step is split into, for each processor.
const BLOCKS_PER_PROCESSOR: usize = 2;
/// Sequences of a launch, as decode.cu has it, and 64-bit words of each.
const MOST_SEQUENCES: usize = 64;
const WORDS: usize = 4;

/// Which rows of a batch a sequence has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) first: usize,
    pub(super) tokens: usize,
}

/// The sequences of a batch, each after a past of its own.
pub(in crate::kernels::attention) struct ContinuedTasks {
    pub(super) sequences: Vec<ContinuedSequence>,
}

pub(super) struct ContinuedSequence {
    pub(super) rows: Rows,
    /// The blocks of a sequence that is too long to be decoded, or continues nothing.
    pub(super) tasks: Option<Tasks>,
}

impl ContinuedTasks {
    /// Sequences that `starts` bounds, after as many tokens as `pasts` has for each.
    pub(in crate::kernels::attention) fn new(
        gpu: &std::sync::Arc<Gpu>,
        starts: &[usize],
        pasts: &[usize],
        spec: AttentionSpec,
    ) -> Result<Self> {
        let sequences = starts.windows(2).zip(pasts).map(|(bounds, &past)| {
            let rows = Rows { first: bounds[0], tokens: bounds[1] - bounds[0] };
            let is_decoded = past > 0 && rows.tokens <= FEW_TOKENS;
            let tasks = (!is_decoded).then(|| Tasks::new(gpu, bounds, spec)).transpose()?;
            Ok(ContinuedSequence { rows, tasks })
        });
        Ok(Self { sequences: sequences.collect::<Result<_>>()? })
    }
}

/// A sequence and the past before it.
pub(super) type Continued<'a> = (Rows, &'a GpuPast);

/// Sequences as `decode.cu` has them in `Sequences`: addresses that hold for as long as the pasts do.
fn table(sequences: &[Continued]) -> Result<Vec<u64>> {
    let mut words = Vec::with_capacity(MOST_SEQUENCES * WORDS);
    for (rows, past) in sequences {
        let [keys, values, len, _] = past.arguments()?.map(Argument::bits);
        let [first, tokens] = Argument::ints([rows.first, rows.tokens])?.map(Argument::bits);
        words.extend([keys, values, len | first << 32, tokens]);
    }
    words.resize(MOST_SEQUENCES * WORDS, 0);
    Ok(words)
}

/// The attention of sequences of few rows after long pasts: reading these is the work, and all processors share it.
pub(super) fn decode(
    output: &mut GpuTensor,
    qkv: &GpuTensor,
    spec: AttentionSpec,
    sequences: &[Continued],
) -> Result<()> {
    let (gpu, t, heads) = (qkv.gpu(), qkv.shape()[0], spec.heads);
    let longest = sequences.iter().map(|(rows, past)| past.len() + rows.tokens).max().unwrap_or(0);
    let window = window(spec, longest);
    let source = source(heads, window.is_some(), spec.softcap.is_some())?;
    let threads = constant(gpu, source, "attention_decode_threads")?;
    let rows = constant(gpu, source, "attention_decode_rows")?.max(1);
    let keys_step = constant(gpu, source, "attention_decode_keys")?.max(1);
    let shared = constant(gpu, source, "attention_decode_shared_bytes")?;
    let most_tokens = sequences.iter().map(|(rows, _)| rows.tokens).max().unwrap_or(0);
    let row_blocks = (most_tokens * heads.queries / heads.keys).div_ceil(rows);
    // Keys that any of a sequence's rows sees.
    let keys = |(rows, past): &Continued| {
        past.len() + rows.tokens - window.map_or(0, |_| spec.first_seen(past.len()))
    };
    let keys = sequences.iter().map(keys).max().unwrap_or(0);
    let blocks = heads.keys * row_blocks * sequences.len();
    let wanted = (gpu.multiprocessors() * BLOCKS_PER_PROCESSOR).div_ceil(blocks.max(1));
    let keys_per_split = keys.div_ceil(wanted).next_multiple_of(keys_step).max(keys_step);
    let splits = keys.div_ceil(keys_per_split);
    let mut partial = gpu.allocate::<f32>(splits * t * heads.queries * heads.size)?;
    let mut log_sums = gpu.allocate::<f32>(splits * t * heads.queries)?;
    let [all, h, k, by_sequence, of_split] =
        Argument::ints([t, heads.queries, heads.keys, row_blocks, keys_per_split])?;
    for sequences in sequences.chunks(MOST_SEQUENCES) {
        let table = table(sequences)?;
        let grid = Grid { blocks: (sequences.len() * row_blocks, heads.keys, splits), threads, shared };
        let arguments = [
            (&mut partial).into(),
            (&mut log_sums).into(),
            qkv.view()?.into(),
            Argument::structure(&table),
            all,
            h,
            k,
            by_sequence,
            of_split,
            Argument::int(window.unwrap_or(0))?,
            spec.scale.into(),
            cap(spec).into(),
        ];
        // SAFETY: `attention_decode(split_out [splits, T, H·D], split_log_sums [splits, T, H], qkv [T, (H + 2K)·D],
        // sequences, T, H, K, row blocks, keys of a split, window, scale, cap)` with a block for each split, key head and
        // block of rows of each sequence, whose rows lie below T, as `check_starts` in mod.rs has seen to.
        #[allow(unsafe_code)]
        unsafe {
            gpu.launch(source, "attention_decode", grid, &arguments)?
        };
        let arguments = [
            output.view_mut()?.into(),
            (&partial).into(),
            (&log_sums).into(),
            Argument::structure(&table),
            all,
            h,
            Argument::int(splits)?,
        ];
        let blocks = (most_tokens * heads.queries, sequences.len(), 1);
        let grid = Grid { blocks, threads: heads.size, shared: 0 };
        // SAFETY: `attention_decode_combine(out [T, H·D], split_out [splits, T, H·D], split_log_sums [splits, T, H],
        // sequences, T, H, splits)` with blocks of D threads for the heads of the rows of each sequence.
        #[allow(unsafe_code)]
        unsafe {
            gpu.launch(source, "attention_decode_combine", grid, &arguments)?
        };
    }
    Ok(())
}

/// Adds the keys and values of sequences after those of their pasts.
pub(super) fn remember(qkv: &GpuTensor, heads: Heads, sequences: Vec<(Rows, &mut GpuPast)>) -> Result<()> {
    let (gpu, mut sequences) = (qkv.gpu(), sequences);
    for (rows, past) in &mut sequences {
        past.reserve(past.len() + rows.tokens, heads)?;
    }
    let [h, k] = Argument::ints([heads.queries, heads.keys])?;
    for sequences in sequences.chunks_mut(MOST_SEQUENCES) {
        let most_tokens = sequences.iter().map(|(rows, _)| rows.tokens).max().unwrap_or(0);
        let lent: Vec<Continued> = sequences.iter().map(|(rows, past)| (*rows, &**past)).collect();
        let table = table(&lent)?;
        let arguments = [qkv.view()?.into(), Argument::structure(&table), h, k];
        let grid = Grid { blocks: (most_tokens, sequences.len(), 2), threads: 128, shared: 0 };
        // SAFETY: `remember_tokens(qkv [T, (H + 2K)·D], sequences, H, K)` with two blocks for each token of each sequence,
        // whose rows lie below T and for whose tokens the pasts have room. Rows are heads of a multiple of the eight
        // numbers that a thread moves.
        #[allow(unsafe_code)]
        unsafe {
            gpu.launch(source(heads, false, false)?, "remember_tokens", grid, &arguments)?
        };
        for (rows, past) in sequences {
            past.filled(rows.tokens);
        }
    }
    Ok(())
}
