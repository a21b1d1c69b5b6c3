//! Where the bytes of streamed blocks come from.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};
use memmap2::MmapMut;

use super::super::page_locked::{PageLocked, host_memory};
use super::super::{Gpu, failed};
use super::buffer::Slot;
use super::image::Image;
use super::shard::Shard;
use crate::cli::{self, Size};
use crate::shared_memory::{SharedBytes, SharedMemory};
use crate::{Result, error};

/// Bytes of a buffer that files pass through.
const CHUNK: usize = 32 << 20;

/// A place that writes a block's bytes to a slot.
pub(super) enum Source {
    /// Page-locked memory of the host.
    PageLocked(PageLocked<MmapMut>),
    /// Page-locked memory that all ranks of the machine read.
    Shared(PageLocked<SharedBytes>),
    /// Parts of files, or of memory that is not page-locked.
    File(Image),
    /// Parts on the GPUs of all ranks.
    Sharded(Shard),
}

impl Source {
    /// Copies an image to page-locked memory, which all ranks of the machine share where there is `shared`. Where the system
    /// refuses to lock memory, which `is_refused` keeps, images stay where they are, with a warning.
    pub(super) fn page_locked(
        gpu: &Gpu,
        image: Image,
        shared: Option<&mut SharedMemory>,
        is_refused: &mut bool,
    ) -> Result<Self> {
        // Other ranks need the part of this one also where it cannot lock the whole.
        let shared = shared.map(|shared| shared.fill(image.len(), |start, part| image.read(start, part)));
        let shared = shared.transpose()?;
        if *is_refused {
            return Ok(Self::File(image));
        }
        let locked = match shared {
            Some(memory) => PageLocked::lock(&gpu.context, memory).map(Self::Shared),
            None => {
                let mut memory = host_memory(image.len())?;
                // All threads write, and so take possession of the pages: to lock them, one thread would have to do it.
                image.read(0, &mut memory[..image.len()]);
                PageLocked::lock(&gpu.context, memory).map(Self::PageLocked)
            }
        };
        match locked {
            Ok(source) => {
                image.release();
                Ok(source)
            }
            Err(error) => {
                *is_refused = true;
                cli::warn(format_args!(
                    "{} of host memory cannot be page-locked ({error}): weights are read from their files in each pass, \
                     which can be slower",
                    Size(image.len() as u64)
                ));
                Ok(Self::File(image))
            }
        }
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
            Self::PageLocked(memory) => queue(memory.bytes(), stream, slot),
            Self::Shared(memory) => queue(memory.bytes(), stream, slot),
            Self::File(image) => {
                let staging = staging.ok_or_else(|| error!(Bug, "a file to stream from, and no buffers"))?;
                image.prefetch();
                staging.queue(image, stream, slot.address(image.len())?)
            }
            Self::Sharded(shard) => shard.queue(stream, slot),
        }
    }
}

/// Queues a copy of page-locked bytes of a [`Source`] to `slot`.
fn queue(bytes: &[u8], stream: &CudaStream, slot: &Slot) -> Result<()> {
    let address = slot.address(bytes.len())?;
    // SAFETY: the slot has room for all bytes, which nothing writes to again; both are freed after `Streaming` has waited
    // for the stream of copies.
    #[allow(unsafe_code)]
    unsafe { result::memcpy_htod_async(address, bytes, stream.cu_stream()) }.map_err(failed)
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
