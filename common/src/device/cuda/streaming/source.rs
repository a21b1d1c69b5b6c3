//! Where the bytes of streamed blocks come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};

use super::super::{Gpu, failed};
use super::buffer::Slot;
use super::image::Image;
use super::shard::Shard;
use crate::cli::{self, Size};
use crate::{Result, error};

/// Bytes of a buffer that files pass through.
const CHUNK: usize = 32 << 20;

/// A place that writes a block's bytes to a slot.
pub(super) enum Source {
    /// Page-locked memory of the host.
    PageLocked(PinnedHostSlice<u8>),
    /// Parts of files, or of memory that is not page-locked.
    File(Image),
    /// Parts on the GPUs of all ranks.
    Sharded(Shard),
}

impl Source {
    /// Copies an image to page-locked memory. Where the system refuses that, the image stays where it is, with a warning.
    pub(super) fn page_locked(gpu: &Gpu, image: Image) -> Result<Self> {
        static IS_WARNED: AtomicBool = AtomicBool::new(false);
        // SAFETY: all of it is written below before it is read.
        #[allow(unsafe_code)]
        let allocated = unsafe { gpu.context.alloc_pinned::<u8>(image.len().max(1)) };
        let mut memory = match allocated.map_err(failed) {
            Ok(memory) => memory,
            Err(error) => {
                if !IS_WARNED.swap(true, Ordering::Relaxed) {
                    cli::warn(format_args!(
                        "{} of host memory cannot be page-locked ({error}): weights are read from their files in each \
                         pass, which can be slower",
                        Size(image.len() as u64)
                    ));
                }
                return Ok(Self::File(image));
            }
        };
        image.read(0, memory.as_mut_slice().map_err(failed)?);
        image.release();
        Ok(Self::PageLocked(memory))
    }

    /// Queues on the stream of copies what writes the block's bytes to `slot`.
    pub(super) fn queue(
        &self,
        gpu: &Gpu,
        stream: &Arc<CudaStream>,
        slot: &Slot,
        staging: Option<&mut Staging>,
    ) -> Result<()> {
        gpu.bind()?;
        match self {
            Self::PageLocked(memory) => {
                let bytes = memory.as_slice().map_err(failed)?;
                let address = slot.address(bytes.len())?;
                // SAFETY: the slot has room for all bytes, which nothing writes to again; both are freed after
                // `Streaming` has waited for the stream of copies.
                #[allow(unsafe_code)]
                unsafe { result::memcpy_htod_async(address, bytes, stream.cu_stream()) }.map_err(failed)
            }
            Self::File(image) => {
                let staging = staging.ok_or_else(|| error!(Bug, "a file to stream from, and no buffers"))?;
                image.prefetch();
                staging.queue(image, stream, slot.address(image.len())?)
            }
            Self::Sharded(shard) => shard.queue(stream, slot),
        }
    }
}

/// Two page-locked buffers that files pass through: one is filled while the other is copied.
pub(super) struct Staging {
    buffers: [Buffer; 2],
    next: usize,
}

struct Buffer {
    memory: PinnedHostSlice<u8>,
    /// The last copy from it is done.
    copied: CudaEvent,
}

impl Staging {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let buffer = || -> Result<Buffer> {
            // SAFETY: written before it is copied.
            #[allow(unsafe_code)]
            let memory = unsafe { gpu.context.alloc_pinned(CHUNK) }.map_err(failed)?;
            Ok(Buffer { memory, copied: gpu.context.new_event(None).map_err(failed)? })
        };
        Ok(Self { buffers: [buffer()?, buffer()?], next: 0 })
    }

    /// Queues copies of all bytes of an image to the memory at `address`, which has room for them.
    fn queue(&mut self, image: &Image, stream: &Arc<CudaStream>, address: u64) -> Result<()> {
        for start in (0..image.len()).step_by(CHUNK) {
            let Buffer { memory, copied } = &mut self.buffers[self.next];
            self.next = 1 - self.next;
            // The copy before this one may still read.
            copied.synchronize().map_err(failed)?;
            let bytes = &mut memory.as_mut_slice().map_err(failed)?[..CHUNK.min(image.len() - start)];
            image.read(start, bytes);
            // SAFETY: there is room for all bytes of the image. The buffer is neither written nor freed before `copied`, or
            // before the stream is idle where that cannot be recorded.
            #[allow(unsafe_code)]
            unsafe { result::memcpy_htod_async(address + start as u64, bytes, stream.cu_stream()) }
                .map_err(failed)?;
            if let Err(error) = copied.record(stream) {
                stream.synchronize().map_err(failed)?;
                return Err(failed(error));
            }
        }
        Ok(())
    }
}
