//! Page-locked memory that a GPU writes results to at full speed, and that threads read at full speed.

use std::ffi::c_void;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError};

use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, result};

use super::launch::address;
use super::{Gpu, failed};
use crate::{Result, error};

/// Page-locked memory of the host. Unlike cudarc's, it is cached, because it is there to be read.
pub(super) struct DownloadBuffer {
    memory: NonNull<f32>,
    /// The number of values that it has room for, all of which are initialized.
    len: usize,
    context: Arc<CudaContext>,
}

// SAFETY: the memory belongs to this value alone, and the driver frees it from any thread.
#[allow(unsafe_code)]
unsafe impl Send for DownloadBuffer {}
// SAFETY: shared references only read.
#[allow(unsafe_code)]
unsafe impl Sync for DownloadBuffer {}

impl DownloadBuffer {
    fn new(gpu: &Gpu, len: usize) -> Result<Self> {
        gpu.bind()?;
        // SAFETY: the context is bound to this thread.
        #[allow(unsafe_code)]
        let memory = unsafe { result::malloc_host(len * size_of::<f32>(), 0) }.map_err(failed)?;
        let memory = NonNull::new(memory.cast::<f32>())
            .ok_or_else(|| error!(Gpu, "{len} numbers of page-locked memory expected, found none"))?;
        // SAFETY: the memory has room for `len` numbers, and zero bytes are the number 0.
        #[allow(unsafe_code)]
        unsafe {
            memory.write_bytes(0, len);
        }
        Ok(Self { memory, len, context: gpu.context.clone() })
    }

    fn values(&self) -> &[f32] {
        // SAFETY: the memory holds `len` numbers and is this value's own.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr(), self.len)
        }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: the memory holds `len` numbers and is this value's own.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len)
        }
    }
}

impl Drop for DownloadBuffer {
    /// No copy is under way: see [`Download`]'s own `Drop`.
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the memory comes from `malloc_host`, and nothing refers to it any more. Where freeing fails, the
            // memory stays with the process.
            #[allow(unsafe_code)]
            let _ = unsafe { result::free_host(self.memory.as_ptr().cast::<c_void>()) };
        }
    }
}

/// A copy of numbers to page-locked memory, which a GPU may still be making.
pub struct Download {
    /// What will be there; `None` once it was waited for.
    values: Option<Downloaded>,
    /// When the copy is done.
    copied: CudaEvent,
}

impl Download {
    /// Waits for the copy and all that was asked for before it; errors of kernels come out here.
    pub(crate) fn wait(mut self) -> Result<Downloaded> {
        self.copied.synchronize().map_err(failed)?;
        self.values.take().ok_or_else(|| error!(Bug, "a copy was waited for before"))
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Download")
    }
}

impl Drop for Download {
    /// The memory is used again or freed after this, which no copy may still write. A GPU that has failed writes no more.
    fn drop(&mut self) {
        if self.values.is_some() {
            let _ = self.copied.synchronize();
        }
    }
}

/// Numbers that a GPU has copied to page-locked memory, which serves the next ones when these are dropped.
pub struct Downloaded {
    gpu: Arc<Gpu>,
    memory: Option<DownloadBuffer>,
    len: usize,
}

impl Deref for Downloaded {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.memory.as_ref().map_or(&[], |memory| &memory.values()[..self.len])
    }
}

impl DerefMut for Downloaded {
    fn deref_mut(&mut self) -> &mut [f32] {
        let len = self.len;
        self.memory.as_mut().map_or(&mut [], |memory| &mut memory.values_mut()[..len])
    }
}

impl fmt::Debug for Downloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Downloaded({} numbers)", self.len)
    }
}

impl Drop for Downloaded {
    fn drop(&mut self) {
        let mut kept = self.gpu.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(self.memory.take());
    }
}

impl Gpu {
    /// Begins to copy the first `len` values of a buffer to page-locked memory, after all that was asked for before.
    pub(crate) fn download_page_locked(
        self: &Arc<Self>,
        slice: &CudaSlice<f32>,
        len: usize,
    ) -> Result<Download> {
        if len > slice.len() {
            return Err(error!(Bug, "{len} values of a buffer of {} are asked for", slice.len()));
        }
        let copied = self.context.new_event(None).map_err(failed)?;
        let mut memory = self.download_buffer(len)?;
        self.bind()?;
        // SAFETY: both hold `len` numbers, and the memory is neither read nor freed before `copied`, or before the stream
        // is idle where that cannot be recorded.
        #[allow(unsafe_code)]
        let begun = unsafe {
            result::memcpy_dtoh_async(
                &mut memory.values_mut()[..len],
                address(slice),
                self.stream.cu_stream(),
            )
        };
        if let Err(error) = begun.and_then(|()| copied.record(&self.stream)) {
            self.synchronize()?;
            return Err(failed(error));
        }
        Ok(Download { values: Some(Downloaded { gpu: self.clone(), memory: Some(memory), len }), copied })
    }

    /// Page-locked memory with room for `len` values. Memory that is too small for them is given up, so that there are only
    /// as many buffers as were in use at a time.
    fn download_buffer(&self, len: usize) -> Result<DownloadBuffer> {
        let mut kept = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.iter().position(|memory| memory.len >= len) {
            Some(index) => Ok(kept.swap_remove(index)),
            None => {
                kept.pop();
                DownloadBuffer::new(self, len.next_power_of_two())
            }
        }
    }
}
