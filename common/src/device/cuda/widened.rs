//! Two buffers that quantized weights are widened into: while a product reads one, the next weight is
//! widened into the other on the second stream. The first holds the largest weight, the second the largest
//! of the others, since neighbours of the largest are smaller.

use std::sync::{Arc, PoisonError};

use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream};

use super::{Gpu, buffer_bytes, failed};
use crate::{Result, error};

/// How many numbers each of the two buffers has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScratchSizes([usize; 2]);

impl ScratchSizes {
    /// Before any weight has asked for room.
    pub const NONE: Self = Self([1, 1]);

    /// Enough for a weight of `len` numbers too.
    pub fn with(self, len: usize) -> Self {
        let [first, second] = self.0;
        match len {
            _ if len > first => Self([len, first]),
            _ if len < first && len > second => Self([first, len]),
            _ => self,
        }
    }

    /// What both take of the memory.
    pub(super) fn bytes(self) -> u64 {
        self.0.map(buffer_bytes::<u16>).iter().sum()
    }
}

/// The two buffers and which was used last.
pub(super) struct DoubleBuffer {
    halves: [Half; 2],
    last: usize,
}

struct Half {
    weights: CudaSlice<u16>,
    /// When the product that reads it is done.
    free: CudaEvent,
    /// When the weight in it is whole.
    ready: CudaEvent,
}

impl DoubleBuffer {
    pub(super) fn new(context: &Arc<CudaContext>, stream: &Arc<CudaStream>) -> Result<Self> {
        let half = || -> Result<Half> {
            Ok(Half {
                // SAFETY: never read before a weight is widened into it.
                #[allow(unsafe_code)]
                weights: unsafe { stream.alloc(ScratchSizes::NONE.0[0]) }.map_err(failed)?,
                free: context.new_event(None).map_err(failed)?,
                ready: context.new_event(None).map_err(failed)?,
            })
        };
        Ok(Self { halves: [half()?, half()?], last: 1 })
    }
}

impl Gpu {
    /// Makes room for weights of `len` numbers, before anything is in flight.
    pub fn reserve_widened(&self, len: usize) -> Result<()> {
        let mut buffer = self.widened.lock().unwrap_or_else(PoisonError::into_inner);
        let now = ScratchSizes([0, 1].map(|half: usize| buffer.halves[half].weights.len()));
        let ScratchSizes([first, second]) = now.with(len);
        if first > now.0[0] {
            // The first buffer is now the second largest.
            buffer.halves.swap(0, 1);
            buffer.halves[0].weights = self.allocate(first)?;
        } else if second > now.0[1] {
            buffer.halves[1].weights = self.allocate(second)?;
        }
        self.synchronize()
    }

    /// Runs `widen` on the stream ahead, into a buffer of at least `len` numbers, then `multiply` with
    /// that buffer behind it on the stream that computes. Room has been made before.
    pub fn widened(
        &self,
        len: usize,
        widen: impl FnOnce(&CudaStream, &CudaSlice<u16>) -> Result<()>,
        multiply: impl FnOnce(&CudaSlice<u16>) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = self.widened.lock().unwrap_or_else(PoisonError::into_inner);
        let other = 1 - buffer.last;
        let turn = if buffer.halves[other].weights.len() >= len { other } else { 0 };
        buffer.last = turn;
        let half = &buffer.halves[turn];
        if half.weights.len() < len {
            return Err(error!(
                Bug,
                "a weight of {len} numbers to widen, and room for {}",
                half.weights.len()
            ));
        }
        self.ahead.wait(&half.free).map_err(failed)?;
        widen(&self.ahead, &half.weights)?;
        half.ready.record(&self.ahead).map_err(failed)?;
        self.stream.wait(&half.ready).map_err(failed)?;
        multiply(&half.weights)?;
        half.free.record(&self.stream).map_err(failed)
    }
}
