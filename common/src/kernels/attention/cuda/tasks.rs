//! Attention's work, cut into blocks of rows.

use std::sync::Arc;

use cudarc::driver::CudaSlice;

use super::sources::{Blocks, constant};
use crate::device::cuda::Gpu;
use crate::kernels::attention::Heads;
use crate::{Result, error};

/// Query rows of a block, as attention.cuh has it.
const QUERY_ROWS: usize = 128;

/// Blocks of rows for the kernels: each a sequence's bounds and the block's first row.
pub(in crate::kernels::attention) struct Tasks {
    /// Blocks of queries, those with the most keys first.
    pub(super) queries: List,
    /// Blocks of keys, those with the most queries first.
    pub(super) keys: List,
    pub(super) sequences: usize,
    /// Keys of their own sequence that rows see, on average.
    pub(super) mean_keys: usize,
    /// Tokens of the longest sequence.
    pub(super) longest: usize,
    /// The kernels that suit such rows.
    pub(super) kernels: Blocks,
    /// D, the head size that the kernels are for.
    head_size: usize,
}

pub(super) struct List {
    pub(super) tasks: CudaSlice<i32>,
    pub(super) len: usize,
    /// Rows of a block.
    pub(super) rows: usize,
}

impl Tasks {
    pub(in crate::kernels::attention) fn new(gpu: &Arc<Gpu>, starts: &[usize], heads: Heads) -> Result<Self> {
        if starts.last().is_some_and(|&t| t > i32::MAX as usize) {
            return Err(error!(TooLarge, "attention: more tokens than a GPU counts"));
        }
        let lengths = || starts.windows(2).map(|bounds| bounds[1] - bounds[0]);
        let tokens: usize = lengths().sum();
        let mean_keys = lengths().map(|length| length * length).sum::<usize>() / 2 / tokens.max(1);
        let kernels = Blocks::new(gpu, heads, mean_keys)?;
        let blocks = |rows: usize| -> Vec<[usize; 3]> {
            let sequences = starts.windows(2).map(|bounds| (bounds[0], bounds[1]));
            sequences
                .flat_map(|(start, end)| (start..end).step_by(rows).map(move |first| [start, end, first]))
                .collect()
        };
        // Stable sorts: the order is the same in every run.
        let mut queries = blocks(QUERY_ROWS);
        queries.sort_by_key(|[start, _, first]| std::cmp::Reverse(first - start));
        let key_rows = constant(gpu, kernels.source(false), "attention_backward_keys_rows")?.max(1);
        let mut keys = blocks(key_rows);
        keys.sort_by_key(|[_, end, first]| std::cmp::Reverse(end - first));
        let sequences = lengths().filter(|length| *length > 0).count();
        let (queries, keys) = (List::new(gpu, &queries, QUERY_ROWS)?, List::new(gpu, &keys, key_rows)?);
        let longest = lengths().max().unwrap_or(0);
        Ok(Self { queries, keys, sequences, mean_keys, longest, kernels, head_size: heads.size })
    }

    /// Fails unless the kernels are for these heads.
    pub(super) fn check(&self, heads: Heads) -> Result<()> {
        match heads.size == self.head_size {
            true => Ok(()),
            false => Err(error!(
                Bug,
                "attention: sequences for heads of {} expected, found heads of {}",
                heads.size,
                self.head_size
            )),
        }
    }
}

impl List {
    fn new(gpu: &Arc<Gpu>, blocks: &[[usize; 3]], rows: usize) -> Result<Self> {
        let flat: Vec<i32> = blocks
            .iter()
            .flat_map(|block| [block[0], block[1], block[2], 0])
            .map(|value| value as i32)
            .collect();
        Ok(Self { tasks: gpu.upload(&flat)?, len: blocks.len(), rows })
    }
}
