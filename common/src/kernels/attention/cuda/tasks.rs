//! Attention's work, cut into blocks of rows.

use std::sync::Arc;

use cudarc::driver::CudaSlice;

use super::sources::{Blocks, constant};
use crate::device::cuda::Gpu;
use crate::kernels::attention::AttentionSpec;
use crate::{Result, error};

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
    pub(in crate::kernels::attention) fn new(
        gpu: &Arc<Gpu>,
        starts: &[usize],
        spec: AttentionSpec,
    ) -> Result<Self> {
        if starts.last().is_some_and(|&t| t > i32::MAX as usize) {
            return Err(error!(TooLarge, "attention: more tokens than a GPU counts"));
        }
        let lengths = || starts.windows(2).map(|bounds| bounds[1] - bounds[0]);
        let tokens: usize = lengths().sum();
        let mean_keys = lengths().map(|length| length * length).sum::<usize>() / 2 / tokens.max(1);
        let kernels = Blocks::new(gpu, spec, mean_keys)?;
        let blocks = |rows: usize| -> Vec<[usize; 3]> {
            let sequences = starts.windows(2).map(|bounds| (bounds[0], bounds[1]));
            sequences
                .flat_map(|(start, end)| (start..end).step_by(rows).map(move |first| [start, end, first]))
                .collect()
        };
        // Stable sorts: the order is the same in every run.
        let query_rows = constant(gpu, kernels.source(false), "attention_query_rows")?.max(1);
        let mut queries = blocks(query_rows);
        queries.sort_by_key(|[start, _, first]| std::cmp::Reverse(first - start));
        let key_rows = constant(gpu, kernels.source(false), "attention_backward_keys_rows")?.max(1);
        let mut keys = blocks(key_rows);
        keys.sort_by_key(|[_, end, first]| std::cmp::Reverse(end - first));
        let sequences = lengths().filter(|length| *length > 0).count();
        let (queries, keys) = (List::new(gpu, &queries, query_rows)?, List::new(gpu, &keys, key_rows)?);
        let longest = lengths().max().unwrap_or(0);
        Ok(Self { queries, keys, sequences, mean_keys, longest, kernels, head_size: spec.heads.size })
    }

    /// Fails unless the kernels are for such heads and scores.
    pub(super) fn check(&self, spec: AttentionSpec) -> Result<()> {
        let expected = (spec.heads.size, spec.softcap.is_some());
        let found = (self.head_size, self.kernels.has_softcap);
        match expected == found {
            true => Ok(()),
            false => Err(error!(
                Bug,
                "attention: sequences for heads of {} (with a soft cap: {}) expected, found those of {} ({})",
                expected.0,
                expected.1,
                found.0,
                found.1
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
