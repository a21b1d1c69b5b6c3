//! Buffers that the driver may move to the host: CUDA's unified memory, which bitsandbytes' paged
//! optimizers use too.

use cudarc::driver::{CudaSlice, DeviceRepr, UnifiedSlice, ValidAsZeroBits};

use super::{Gpu, address, failed};
use crate::cli::Size;
use crate::{Context, Result, bail};

/// A buffer in the GPU's own memory or in unified memory.
#[derive(Debug)]
pub enum Buffer<T> {
    /// In the GPU's own memory.
    Own(CudaSlice<T>),
    /// Where the driver puts it: on the GPU while it is used, on the host where the GPU's memory is short.
    Unified {
        /// The values.
        values: UnifiedSlice<T>,
        /// Of the first value, for the GPU.
        address: u64,
    },
}

impl<T> Buffer<T> {
    /// The address of the first value.
    pub fn address(&self) -> u64 {
        match self {
            Self::Own(values) => address(values),
            Self::Unified { address, .. } => *address,
        }
    }

    /// Brings unified memory to the GPU, behind the work that was asked for before.
    pub fn prefetch(&self) -> Result<()> {
        match self {
            Self::Own(_) => Ok(()),
            Self::Unified { values, .. } => values.prefetch().map_err(failed),
        }
    }
}

impl Gpu {
    /// A buffer of these values in unified memory. Never more than the GPU has free: a GPU that must move
    /// what it works on can stand still.
    pub fn unified<T: DeviceRepr + ValidAsZeroBits + Copy>(&self, values: &[T]) -> Result<Buffer<T>> {
        let bytes = size_of_val(values) as u64;
        if bytes > self.memory()?.free {
            bail!(OutOfMemory, "{} of unified memory, and the GPU has less free", Size(bytes));
        }
        // SAFETY: every value is written below before anyone reads it.
        #[allow(unsafe_code)]
        let allocated = unsafe { self.context.alloc_unified::<T>(values.len().max(1), true) };
        let mut unified = allocated.map_err(failed).context("unified memory for a paged optimizer")?;
        unified.as_mut_slice().map_err(failed)?[..values.len()].copy_from_slice(values);
        let address = cudarc::driver::DevicePtr::device_ptr(&unified, &self.stream).0;
        let buffer = Buffer::Unified { values: unified, address };
        buffer.prefetch()?;
        Ok(buffer)
    }

    /// The first `len` values of a buffer, after all that was asked for is done.
    pub fn read<T: DeviceRepr + ValidAsZeroBits + Default + Copy>(
        &self,
        buffer: &Buffer<T>,
        len: usize,
    ) -> Result<Vec<T>> {
        match buffer {
            Buffer::Own(values) => self.download(values, len),
            Buffer::Unified { values, .. } => {
                self.synchronize()?;
                Ok(values.as_slice().map_err(failed)?[..len].to_vec())
            }
        }
    }
}
