//! Two buffers that quantized weights are widened into, by turns: while a product reads one, the next
//! weight is widened into the other on the second stream.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream};
use half::bf16;

use super::{Gpu, failed};
use crate::Result;

/// The two buffers and whose turn it is.
pub(super) struct DoubleBuffer {
    halves: [Half; 2],
    next: usize,
}

struct Half {
    weights: CudaSlice<bf16>,
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
                weights: unsafe { stream.alloc(1) }.map_err(failed)?,
                free: context.new_event(None).map_err(failed)?,
                ready: context.new_event(None).map_err(failed)?,
            })
        };
        Ok(Self { halves: [half()?, half()?], next: 0 })
    }
}

impl Gpu {
    /// Makes room for weights of `len` numbers, before anything is in flight.
    pub fn reserve_widened(&self, len: usize) -> Result<()> {
        let mut buffer = self.widened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for half in &mut buffer.halves {
            if half.weights.len() < len {
                half.weights = self.allocate(len)?;
            }
        }
        self.synchronize()
    }

    /// Runs `widen` on the stream ahead, into a buffer of at least `len` numbers, then `multiply` with
    /// that buffer behind it on the stream that computes.
    pub fn widened(
        &self,
        len: usize,
        widen: impl FnOnce(&CudaStream, &CudaSlice<bf16>) -> Result<()>,
        multiply: impl FnOnce(&CudaSlice<bf16>) -> Result<()>,
    ) -> Result<()> {
        let too_small = {
            let buffer = self.widened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            buffer.halves[buffer.next].weights.len() < len
        };
        if too_small {
            self.synchronize()?;
            self.reserve_widened(len)?;
        }
        let mut buffer = self.widened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let turn = buffer.next;
        buffer.next = 1 - turn;
        let half = &buffer.halves[turn];
        self.ahead.wait(&half.free).map_err(failed)?;
        widen(&self.ahead, &half.weights)?;
        half.ready.record(&self.ahead).map_err(failed)?;
        self.stream.wait(&half.ready).map_err(failed)?;
        multiply(&half.weights)?;
        half.free.record(&self.stream).map_err(failed)
    }
}
