//! How fast a GPU copies from page-locked memory of the host.

use std::time::Instant;

use cudarc::driver::result;

use super::super::launch::address;
use super::super::{Gpu, failed};
use crate::{Context, Result};

/// Bytes of a copy that is measured.
const BYTES: usize = 64 << 20;
/// Copies that are measured, after one that is not.
const COPIES: u32 = 8;

impl Gpu {
    /// Measures the bytes that are copied from page-locked memory in a second.
    pub fn copy_rate(&self) -> Result<f64> {
        // SAFETY: its content is arbitrary, and so is what becomes of it.
        #[allow(unsafe_code)]
        let memory = unsafe { self.context.alloc_pinned::<u8>(BYTES) };
        let mut memory = memory.map_err(failed).context("page-locked memory to measure copies")?;
        memory.as_mut_slice().map_err(failed)?.fill(1);
        let buffer = self.allocate::<u8>(BYTES)?;
        let copy = |times: u32| -> Result<()> {
            for _ in 0..times {
                let bytes = memory.as_slice().map_err(failed)?;
                self.bind()?;
                // SAFETY: both hold as many bytes, and are freed after the GPU has been waited for.
                #[allow(unsafe_code)]
                unsafe { result::memcpy_htod_async(address(&buffer), bytes, self.stream.cu_stream()) }
                    .map_err(failed)?;
            }
            Ok(())
        };
        let warmed_up = copy(1).and(self.synchronize());
        let start = Instant::now();
        // Waited for also where a copy could not be queued.
        let copied = copy(COPIES).and(self.synchronize());
        warmed_up.and(copied)?;
        Ok(f64::from(COPIES) * BYTES as f64 / start.elapsed().as_secs_f64())
    }
}
