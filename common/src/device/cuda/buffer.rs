//! Buffers that the driver may move to the host: CUDA's unified memory, which bitsandbytes' paged
//! optimizers use too.

use cudarc::driver::{CudaSlice, DeviceRepr, UnifiedSlice, ValidAsZeroBits};

use super::view::StreamId;
use super::{Gpu, View, ViewMut, failed};
use crate::cli::Size;
use crate::{Context, Result, bail};

/// A buffer in the GPU's own memory or in unified memory.
#[derive(Debug)]
pub(crate) enum Buffer<T> {
    /// In the GPU's own memory.
    Own(CudaSlice<T>),
    /// Where the driver puts it: on the GPU while it is used, on the host where the GPU's memory is short.
    Unified {
        /// The values.
        values: UnifiedSlice<T>,
        /// The address of the first value for the GPU.
        address: u64,
        /// The stream that uses it.
        stream: StreamId,
    },
}

impl<T: Copy> Buffer<T> {
    /// A row of all values, to read.
    pub(crate) fn view(&self) -> View<'_, T> {
        match self {
            Self::Own(values) => values.into(),
            // SAFETY: the values live as long as this borrow, and are changed through a mutable one only.
            #[allow(unsafe_code)]
            Self::Unified { values, address, stream } => unsafe { View::at(*address, values.len(), *stream) },
        }
    }

    /// A row of all values, to write.
    pub(crate) fn view_mut(&mut self) -> ViewMut<'_, T> {
        match self {
            Self::Own(values) => values.into(),
            // SAFETY: the values live as long as this borrow, which is the only one.
            #[allow(unsafe_code)]
            Self::Unified { values, address, stream } => unsafe {
                ViewMut::at(*address, values.len(), *stream)
            },
        }
    }

    /// Brings unified memory to the GPU, after the work that was asked for before.
    pub(crate) fn prefetch(&self) -> Result<()> {
        match self {
            Self::Own(_) => Ok(()),
            Self::Unified { values, .. } => values.prefetch().map_err(failed),
        }
    }
}

impl Gpu {
    /// A buffer of these values in unified memory. Never more than the GPU has free: a GPU that must move
    /// what it works on can stand still.
    pub(crate) fn unified<T: DeviceRepr + ValidAsZeroBits + Copy>(&self, values: &[T]) -> Result<Buffer<T>> {
        let bytes = size_of_val(values) as u64;
        if bytes > self.memory()?.free {
            bail!(OutOfMemory, "{} of unified memory, and the GPU has less free", Size(bytes));
        }
        // SAFETY: every value is written below before it is read.
        #[allow(unsafe_code)]
        let allocated = unsafe { self.context.alloc_unified::<T>(values.len().max(1), true) };
        let mut unified = allocated.map_err(failed).context("unified memory for a paged optimizer")?;
        unified.as_mut_slice().map_err(failed)?[..values.len()].copy_from_slice(values);
        let address = cudarc::driver::DevicePtr::device_ptr(&unified, &self.stream).0;
        let buffer = Buffer::Unified { values: unified, address, stream: StreamId::of(&self.stream) };
        buffer.prefetch()?;
        Ok(buffer)
    }

    /// The first `len` values of a buffer, after all that was asked for is done.
    pub(crate) fn read<T: DeviceRepr + ValidAsZeroBits + Default + Copy>(
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
