//! Keys and values of earlier tokens on a GPU, and the kernel that copies them there.

use std::sync::Arc;

use cudarc::driver::CudaSlice;

use super::sources::source;
use crate::Result;
use crate::device::cuda::{Argument, Gpu, GpuTensor, Grid, View, ViewMut};
use crate::kernels::attention::Heads;

/// Rows of a past that has grown are a multiple of this.
const ROOM: usize = 64;

/// Rows of keys and values on a GPU, in buffers with room for more.
#[derive(Debug)]
pub(in crate::kernels::attention) struct GpuPast {
    gpu: Arc<Gpu>,
    /// [capacity, K·D]
    keys: CudaSlice<u16>,
    /// [capacity, K·D]
    values: CudaSlice<u16>,
    /// P, the rows that are filled.
    len: usize,
    /// K·D
    columns: usize,
}

impl GpuPast {
    /// An empty past with room for `tokens` rows of `columns` numbers.
    pub(in crate::kernels::attention) fn new(gpu: &Arc<Gpu>, columns: usize, tokens: usize) -> Result<Self> {
        let room = tokens * columns;
        let (keys, values) = (gpu.allocate(room)?, gpu.allocate(room)?);
        Ok(Self { gpu: gpu.clone(), keys, values, len: 0, columns })
    }

    /// P, the tokens it holds.
    pub(in crate::kernels::attention) fn len(&self) -> usize {
        self.len
    }

    /// K·D
    pub(in crate::kernels::attention) fn columns(&self) -> usize {
        self.columns
    }

    /// Keeps the first `len` tokens.
    pub(in crate::kernels::attention) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Tokens there is room for.
    fn capacity(&self) -> usize {
        self.keys.len() / self.columns
    }

    /// Makes room for `tokens` tokens in all.
    pub(in crate::kernels::attention) fn reserve(&mut self, tokens: usize, heads: Heads) -> Result<()> {
        if tokens > self.capacity() {
            // Twice as much: a token at a time costs a copy now and then, not each time.
            let room = tokens.max(2 * self.capacity()).next_multiple_of(ROOM);
            let mut grown = Self::new(&self.gpu, self.columns, room)?;
            grown.copy_prefix(self, self.len, heads)?;
            *self = grown;
        }
        Ok(())
    }

    /// Becomes a copy of the first `len` tokens of another past.
    pub(in crate::kernels::attention) fn copy_prefix(
        &mut self,
        of: &Self,
        len: usize,
        heads: Heads,
    ) -> Result<()> {
        self.len = 0;
        self.reserve(len, heads)?;
        if len == 0 {
            return Ok(());
        }
        let filled = [&of.keys, &of.values].map(|buffer| View::from(buffer).columns(0..len * self.columns));
        let [keys, values] = filled.map(|row| row?.matrix(len, self.columns));
        self.copy([keys?, values?], heads)
    }

    /// Counts tokens whose keys and values have been written after the last of ours.
    pub(super) fn filled(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Adds the keys and values of qkv [T, (H + 2K)·D] after those that are there.
    pub(in crate::kernels::attention) fn append(&mut self, qkv: &GpuTensor, heads: Heads) -> Result<()> {
        self.reserve(self.len + qkv.shape()[0], heads)?;
        let first = heads.queries * heads.size;
        let keys = qkv.view()?.columns(first..first + self.columns)?;
        let values = qkv.view()?.columns(first + self.columns..first + 2 * self.columns)?;
        self.copy([keys, values], heads)
    }

    /// Copies rows of keys and of values, which lie equally far apart, after the last of ours.
    fn copy(&mut self, [keys, values]: [View<'_, u16>; 2], heads: Heads) -> Result<()> {
        let (rows, columns, len) = (keys.shape()[0], self.columns, self.len);
        let place = |buffer| -> Result<ViewMut<'_, u16>> {
            ViewMut::from(buffer).columns(len * columns..(len + rows) * columns)?.matrix(rows, columns)
        };
        let to = [place(&mut self.keys)?.into(), place(&mut self.values)?.into()];
        let sizes = Argument::ints([keys.stride(), columns])?;
        let arguments = [&to[..], &[keys.into(), values.into()], &sizes].concat();
        let grid = Grid { blocks: (rows, 2, 1), threads: 128, shared: 0 };
        // SAFETY: `copy_columns(keys, values [rows, K·D], from keys, from values [rows, K·D] with a stride, stride, K·D)`
        // with a block for each row of both; rows are heads of a multiple of the eight columns that a thread moves.
        #[allow(unsafe_code)]
        unsafe {
            self.gpu.launch(source(heads, false, false)?, "copy_columns", grid, &arguments)?
        };
        self.len += rows;
        Ok(())
    }

    /// What kernels take of a past: keys, values, P and the row stride.
    pub(super) fn arguments(&self) -> Result<[Argument<'_>; 4]> {
        let [len, columns] = Argument::ints([self.len, self.columns])?;
        Ok([(&self.keys).into(), (&self.values).into(), len, columns])
    }
}
