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
    /// Values that it has room for, all of which are numbers.
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
    /// No copy is under way: see [`Downloaded`]'s own `Drop`.
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the memory comes from `malloc_host`, and nothing refers to it any more. Where freeing fails, the
            // memory stays with the process.
            #[allow(unsafe_code)]
            let _ = unsafe { result::free_host(self.memory.as_ptr().cast::<c_void>()) };
        }
    }
}

/// Numbers that a GPU copies to page-locked memory. There are none before they were waited for. The memory serves the next
/// numbers when these are dropped.
pub struct Downloaded {
    gpu: Arc<Gpu>,
    memory: Option<DownloadBuffer>,
    len: usize,
    /// When the copy is done; `None` once that was waited for.
    copied: Option<CudaEvent>,
}

impl Downloaded {
    /// Returns whether the copy was waited for.
    pub(crate) fn is_there(&self) -> bool {
        self.copied.is_none()
    }

    /// Waits for the copy and all that was asked for before it; errors of kernels come out here.
    pub(crate) fn wait(&mut self) -> Result<()> {
        self.copied.take().map_or(Ok(()), |copied| copied.synchronize().map_err(failed))
    }
}

impl Deref for Downloaded {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let memory = self.memory.as_ref().filter(|_| self.is_there());
        memory.map_or(&[], |memory| &memory.values()[..self.len])
    }
}

impl DerefMut for Downloaded {
    fn deref_mut(&mut self) -> &mut [f32] {
        let (len, is_there) = (self.len, self.is_there());
        let memory = self.memory.as_mut().filter(|_| is_there);
        memory.map_or(&mut [], |memory| &mut memory.values_mut()[..len])
    }
}

impl fmt::Debug for Downloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Downloaded({} numbers)", self.len)
    }
}

impl Drop for Downloaded {
    /// The memory is used again or freed after this, which no copy may still write. A GPU that has failed writes no more.
    fn drop(&mut self) {
        let _ = self.wait();
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
    ) -> Result<Downloaded> {
        if len > slice.len() {
            return Err(error!(Bug, "{len} values of a buffer of {} are asked for", slice.len()));
        }
        let event = self.context.new_event(None).map_err(failed)?;
        let mut memory = self.download_buffer(len)?;
        self.bind()?;
        // SAFETY: both hold `len` numbers, and the memory is neither read nor freed before `event`, or before the stream
        // is idle where that cannot be recorded.
        #[allow(unsafe_code)]
        let copied = unsafe {
            result::memcpy_dtoh_async(
                &mut memory.values_mut()[..len],
                address(slice),
                self.stream.cu_stream(),
            )
        };
        if let Err(error) = copied.and_then(|()| event.record(&self.stream)) {
            self.synchronize()?;
            return Err(failed(error));
        }
        Ok(Downloaded { gpu: self.clone(), memory: Some(memory), len, copied: Some(event) })
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
