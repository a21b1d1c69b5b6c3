//! Buffers of frozen weights: memory of their own, or a part of a slot.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use cudarc::driver::{CudaEvent, CudaSlice, DeviceRepr};

use super::super::launch::address;
use super::super::view::StreamId;
use super::super::{Argument, Gpu, View, failed};
use super::image::Image;
use crate::checkpoint::Bytes;
use crate::{Result, error};

/// A number that no block has.
const NONE: usize = usize::MAX;

/// A part of a GPU's memory that blocks are copied into, one after the other.
pub(super) struct Slot {
    memory: CudaSlice<u8>,
    /// The number of the block that is visited, or [`NONE`].
    visited: AtomicUsize,
    /// The last block that was copied into it is whole.
    pub(super) copied: CudaEvent,
    /// What was computed with the last block is done.
    pub(super) used: CudaEvent,
}

impl Slot {
    pub(super) fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        Ok(Self {
            memory: gpu.allocate(bytes)?,
            visited: AtomicUsize::new(NONE),
            copied: gpu.context.new_event(None).map_err(failed)?,
            used: gpu.context.new_event(None).map_err(failed)?,
        })
    }

    /// The address of the first byte, where there is room for `len` bytes.
    pub(super) fn address(&self, len: usize) -> Result<u64> {
        match len <= self.memory.len() {
            true => Ok(address(&self.memory)),
            false => Err(error!(Bug, "{len} bytes for a slot of {}", self.memory.len())),
        }
    }

    /// Lets the weights of a block be used until the result is dropped.
    pub(super) fn visited(&self, block: usize) -> Visited<'_> {
        self.visited.store(block, Ordering::Relaxed);
        Visited(self)
    }
}

/// A visit of the block that a slot holds.
pub(super) struct Visited<'a>(&'a Slot);

impl Drop for Visited<'_> {
    fn drop(&mut self) {
        self.0.visited.store(NONE, Ordering::Relaxed);
    }
}

/// Values of a frozen weight on a GPU.
pub(crate) enum FrozenBuffer<T> {
    /// In memory of its own, where the values always are.
    Own(CudaSlice<T>),
    /// In a part of a slot, where the values are while their block is visited.
    InSlot(SlotPart<T>),
}

/// Values of a block that lie in a slot while the block is visited.
pub(crate) struct SlotPart<T> {
    slot: Arc<Slot>,
    block: usize,
    bytes: Range<usize>,
    values: PhantomData<T>,
}

impl<T: Copy> FrozenBuffer<T> {
    /// Number of values.
    fn len(&self) -> usize {
        match self {
            Self::Own(values) => values.len(),
            Self::InSlot(part) => part.bytes.len() / size_of::<T>(),
        }
    }

    /// Fails where the values are not there, because another block is visited or none.
    pub(crate) fn expect_present(&self) -> Result<()> {
        let Self::InSlot(SlotPart { slot, block, .. }) = self else { return Ok(()) };
        match slot.visited.load(Ordering::Relaxed) == *block {
            true => Ok(()),
            false => Err(error!(Bug, "weights of streamed block {block} are used outside its visit")),
        }
    }

    /// A row of all values, which must be there.
    pub(crate) fn view(&self) -> Result<View<'_, T>> {
        self.expect_present()?;
        Ok(self.row())
    }

    /// The address of all values, for a table of addresses. Kernels follow it only after
    /// [`FrozenBuffer::expect_present`].
    pub(crate) fn address(&self) -> Argument<'_> {
        self.row().into()
    }

    /// The address of some of the values, for a table of addresses. Kernels follow it only after
    /// [`FrozenBuffer::expect_present`].
    pub(crate) fn address_of(&self, range: Range<usize>) -> Result<Argument<'_>> {
        Ok(self.row().columns(range)?.into())
    }

    fn row(&self) -> View<'_, T> {
        match self {
            Self::Own(values) => values.into(),
            Self::InSlot(SlotPart { slot, bytes, .. }) => {
                let first = address(&slot.memory) + bytes.start as u64;
                // SAFETY: the bytes lie within the slot, which `StreamedBlock::into_image` checks before anything can be
                // visited, and which is freed after this. They are written by copies of blocks alone, and those wait for all
                // work that was queued in the visit of the block that the slot held: work is queued after `expect_present`,
                // which holds in that visit only.
                #[allow(unsafe_code)]
                unsafe {
                    View::at(first, self.len(), StreamId::of(slot.memory.stream()))
                }
            }
        }
    }
}

/// A streamed block whose weights are being loaded.
pub(crate) struct StreamedBlock {
    number: usize,
    slot: Arc<Slot>,
    image: Mutex<Image>,
}

impl StreamedBlock {
    pub(super) fn new(number: usize, slot: Arc<Slot>) -> Self {
        Self { number, slot, image: Mutex::default() }
    }

    /// The bytes of all weights that were stored, which must fit into the slot.
    pub(super) fn into_image(self) -> Result<Image> {
        let image = self.image.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.slot.address(image.len()).map(|_| image)
    }

    fn store<T>(&self, parts: impl IntoIterator<Item = Bytes>) -> FrozenBuffer<T> {
        let bytes = self.image.lock().unwrap_or_else(PoisonError::into_inner).push(parts);
        let slot = Arc::clone(&self.slot);
        FrozenBuffer::InSlot(SlotPart { slot, block: self.number, bytes, values: PhantomData })
    }
}

/// Where the frozen weights of a block go when they are loaded: to the GPU, or to where they are streamed from.
#[derive(Clone, Copy)]
pub(crate) struct GpuMemory<'a> {
    gpu: &'a Arc<Gpu>,
    streamed: Option<&'a StreamedBlock>,
}

impl<'a> GpuMemory<'a> {
    /// Memory of the GPU, or the streamed block.
    pub(crate) fn new(gpu: &'a Arc<Gpu>, streamed: Option<&'a StreamedBlock>) -> Self {
        Self { gpu, streamed }
    }

    /// The GPU that computes.
    pub(crate) fn gpu(self) -> &'a Arc<Gpu> {
        self.gpu
    }

    /// Whether what is stored will be streamed.
    pub(crate) fn is_streamed(self) -> bool {
        self.streamed.is_some()
    }

    /// Stores values, which are copied where they are streamed.
    pub(crate) fn store<T: DeviceRepr + Pod>(self, values: &[T]) -> Result<FrozenBuffer<T>> {
        match self.streamed {
            None => self.gpu.upload(values).map(FrozenBuffer::Own),
            Some(block) => Ok(block.store([bytemuck::cast_slice(values).to_vec().into()])),
        }
    }

    /// Stores bytes, which stay where they are until they are streamed.
    pub(crate) fn store_bytes(self, bytes: &Bytes) -> Result<FrozenBuffer<u8>> {
        match self.streamed {
            None => self.gpu.upload(&bytes[..]).map(FrozenBuffer::Own),
            Some(block) => Ok(block.store([bytes.clone()])),
        }
    }

    /// Stores `len` values, those of the parts, one after the other.
    pub(crate) fn concatenate<T: DeviceRepr + Pod>(
        self,
        len: usize,
        parts: impl IntoIterator<Item = Result<Bytes>>,
    ) -> Result<FrozenBuffer<T>> {
        let Some(block) = self.streamed else {
            return self.gpu.concatenate(len, parts).map(FrozenBuffer::Own);
        };
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        let found = parts.iter().map(|part| part.len()).sum::<usize>();
        match found == len * size_of::<T>() {
            true => Ok(block.store(parts)),
            false => Err(error!(Bug, "parts of {} bytes expected, found {found}", len * size_of::<T>())),
        }
    }
}
