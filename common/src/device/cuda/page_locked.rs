//! Memory of the host that the system does not move, so that a GPU copies from it and to it by itself.

use std::ffi::c_void;
use std::ops::Deref;
use std::sync::Arc;

use cudarc::driver::{CudaContext, sys};
use memmap2::{Advice, MmapMut};
use rayon::prelude::*;

use super::failed;
use crate::{Context, Result};

/// Bytes of a page, at least.
const PAGE: usize = 4096;
/// Bytes that a thread takes possession of at a time.
const PIECE: usize = 16 << 20;

/// Memory of the host, without values yet and not page-locked.
pub(super) fn host_memory(len: usize) -> Result<MmapMut> {
    let memory = MmapMut::map_anon(len.max(1)).with_context(|| format!("{len} bytes of host memory"))?;
    // Large pages are locked faster. Where there are none, small ones do.
    let _ = memory.advise(Advice::HugePage);
    Ok(memory)
}

/// Touches the pages of host memory on all threads, so that the system provides them: locking untouched pages would
/// do that on one thread.
pub(super) fn touch(memory: &mut [u8]) {
    memory.par_chunks_mut(PIECE).for_each(|piece| piece.iter_mut().step_by(PAGE).for_each(|byte| *byte = 0));
}

/// Page-locked memory of the host: a map of memory that is of this process alone, or shared with others.
pub(super) struct PageLocked<M: Deref<Target = [u8]>> {
    memory: M,
    context: Arc<CudaContext>,
}

impl<M: Deref<Target = [u8]>> PageLocked<M> {
    /// Locks memory, or gives it back with the error of the driver.
    pub(super) fn lock_or_give_back(
        context: &Arc<CudaContext>,
        memory: M,
    ) -> Result<Self, (M, crate::Error)> {
        let address = address(&memory);
        let registered = context.bind_to_thread().and_then(|()| {
            // SAFETY: the memory is mapped until it has been unregistered, which `Drop` does first.
            #[allow(unsafe_code)]
            unsafe { sys::cuMemHostRegister_v2(address, memory.len(), sys::CU_MEMHOSTREGISTER_PORTABLE) }
                .result()
        });
        match registered {
            Ok(()) => Ok(Self { memory, context: Arc::clone(context) }),
            Err(error) => Err((memory, failed(error))),
        }
    }

    /// Locks memory.
    pub(super) fn lock(context: &Arc<CudaContext>, memory: M) -> Result<Self> {
        Self::lock_or_give_back(context, memory).map_err(|(_, error)| error)
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory
    }
}

impl PageLocked<MmapMut> {
    /// The bytes, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl<M: Deref<Target = [u8]>> Drop for PageLocked<M> {
    /// Unlocks the memory, which no copy may still use.
    fn drop(&mut self) {
        let address = address(&self.memory);
        // A GPU that has failed uses it no more.
        let _ = self.context.bind_to_thread().and_then(|()| {
            // SAFETY: registered by `lock_or_give_back`, and mapped until the fields are dropped.
            #[allow(unsafe_code)]
            unsafe { sys::cuMemHostUnregister(address) }.result()
        });
    }
}

fn address(memory: &[u8]) -> *mut c_void {
    memory.as_ptr().cast_mut().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_memory_is_zeros_after_all_threads_have_touched_it() {
        let mut memory = host_memory(2 * PIECE + 5).unwrap();
        assert_eq!(memory.len(), 2 * PIECE + 5);
        touch(&mut memory);
        assert!(memory.iter().all(|byte| *byte == 0));
        touch(&mut host_memory(0).unwrap());
    }
}
