//! Buffers on the GPU and copies to and from them.

use std::ffi::c_void;

use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, DeviceRepr, PinnedHostSlice, ValidAsZeroBits, result, sys,
};

use super::launch::address;
use super::view::StreamId;
use super::{Gpu, View, ViewMut, failed};
use crate::checkpoint::Bytes;
use crate::{Context, Result, error};

/// What a GPU's memory holds, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Free for everyone, and what this process has set aside and does not use.
    pub free: u64,
    /// All there is.
    pub total: u64,
    /// In use by this process's buffers.
    pub used: u64,
    /// The most that was in use at a time.
    pub peak: u64,
    /// The most that this process had set aside for buffers at a time, in use or not.
    pub reserved_peak: u64,
}

/// The pool hands out multiples of this many bytes, as it is seen to do; no documentation promises it.
const GRANULE: u64 = 512;

/// Bytes that a buffer of `len` values takes of the memory.
pub(crate) fn buffer_bytes<T>(len: usize) -> u64 {
    (len.max(1) as u64 * size_of::<T>() as u64).next_multiple_of(GRANULE)
}

/// Page-locked memory that values pass through on their way to the GPU.
pub(super) struct Staging {
    memory: PinnedHostSlice<u16>,
    /// When the last copy from it is done.
    copied: CudaEvent,
}

impl Staging {
    fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self> {
        // SAFETY: written before it is copied.
        #[allow(unsafe_code)]
        let memory = unsafe { context.alloc_pinned(len) }.map_err(failed)?;
        Ok(Self { memory, copied: context.new_event(None).map_err(failed)? })
    }
}

impl Drop for Staging {
    /// The memory is unlocked and freed after this, which no copy may still read. A GPU that has failed
    /// reads no more.
    fn drop(&mut self) {
        let _ = self.copied.synchronize();
    }
}

/// Freed buffers stay with the process: giving memory back and asking again costs milliseconds.
pub(super) fn keep_freed_memory(context: &CudaContext) -> Result<()> {
    let mut threshold = u64::MAX;
    // SAFETY: the pool lives as long as the device; the attribute is a u64.
    #[allow(unsafe_code)]
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).map_err(failed)?;
        result::mem_pool::set_attribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast::<c_void>(),
        )
        .map_err(failed)
    }
}

impl Gpu {
    /// A buffer whose content is arbitrary. It is freed after the work that was asked for before.
    pub(crate) fn allocate<T: DeviceRepr>(&self, len: usize) -> Result<CudaSlice<T>> {
        // SAFETY: the memory holds arbitrary bits, which are some value of every number type that is used here, and
        // operations write their results before they read them. A buffer of zero bytes cannot be had, so that the
        // smallest holds one value.
        #[allow(unsafe_code)]
        let allocated = unsafe { self.stream.alloc(len.max(1)) };
        allocated.map_err(failed).with_context(|| format!("{} bytes of GPU memory", len * size_of::<T>()))
    }

    /// A buffer of zeros.
    pub(crate) fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<CudaSlice<T>> {
        let mut slice = self.allocate(len)?;
        self.fill_zero(&mut slice)?;
        Ok(slice)
    }

    /// Overwrites a buffer with zeros.
    pub(crate) fn fill_zero<T: DeviceRepr + ValidAsZeroBits>(&self, slice: &mut CudaSlice<T>) -> Result<()> {
        self.stream.memset_zeros(slice).map_err(failed)
    }

    /// A buffer with these values.
    pub(crate) fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>> {
        let mut slice = self.allocate(values.len())?;
        if !values.is_empty() {
            self.stream.memcpy_htod(values, &mut slice).map_err(failed)?;
        }
        Ok(slice)
    }

    /// A buffer of `len` values, whose bytes are those of the parts, one after the other.
    pub(crate) fn concatenate<T: DeviceRepr + Pod>(
        &self,
        len: usize,
        parts: impl IntoIterator<Item = Result<Bytes>>,
    ) -> Result<CudaSlice<T>> {
        let (slice, bytes, mut filled) = (self.allocate(len)?, len * size_of::<T>(), 0);
        self.bind()?;
        for part in parts {
            let part = part?;
            let end = filled + part.len();
            if end > bytes {
                return Err(error!(Bug, "parts of {bytes} bytes expected, found {end} and more"));
            }
            if !part.is_empty() {
                // SAFETY: the buffer has room up to `end`, and nothing reads it before it is returned. The driver has read
                // memory that is not page-locked when the call returns.
                #[allow(unsafe_code)]
                unsafe {
                    let place = address(&slice) + filled as u64;
                    result::memcpy_htod_async(place, &part, self.stream.cu_stream())
                }
                .map_err(failed)?;
            }
            filled = end;
        }
        match filled == bytes {
            true => Ok(slice),
            false => Err(error!(Bug, "parts of {bytes} bytes expected, found {filled}")),
        }
    }

    /// A buffer with the `len` values that `fill` writes into page-locked memory, from which the GPU
    /// copies at full speed while the host continues.
    pub(crate) fn upload_staged(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u16]) -> Result<()>,
    ) -> Result<CudaSlice<u16>> {
        let slice = self.allocate(len)?;
        let mut staging = self.staging.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let staging = match &mut *staging {
            Some(staging) if staging.memory.len() >= len => staging,
            place => place.insert(Staging::new(&self.context, len.next_power_of_two())?),
        };
        // The copy before this one may still read.
        staging.copied.synchronize().map_err(failed)?;
        let values = &mut staging.memory.as_mut_slice().map_err(failed)?[..len];
        fill(values)?;
        if len > 0 {
            // SAFETY: both hold `len` values, and the memory is neither written nor freed before `copied`,
            // or before the stream is idle where that cannot be recorded.
            #[allow(unsafe_code)]
            unsafe { result::memcpy_htod_async(address(&slice), values, self.stream.cu_stream()) }
                .map_err(failed)?;
            if let Err(error) = staging.copied.record(&self.stream) {
                self.synchronize()?;
                return Err(failed(error));
            }
        }
        Ok(slice)
    }

    /// Copies numbers that follow each other to a place for as many, on the stream that computes.
    pub(crate) fn copy<T: Copy>(&self, from: View<'_, T>, to: ViewMut<'_, T>) -> Result<()> {
        let [rows, columns] = from.shape();
        from.expect("copy: from", to.shape())?;
        to.expect("copy: to", [rows, columns])?;
        let own = StreamId::of(&self.stream);
        if from.stream() != own || to.stream() != own {
            return Err(error!(Bug, "copy: buffers of one open GPU expected"));
        }
        let bytes = rows * columns * size_of::<T>();
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both views cover `bytes` bytes without gaps, and what is written nothing else reads meanwhile.
        #[allow(unsafe_code)]
        unsafe { result::memcpy_dtod_async(to.address(), from.address(), bytes, self.stream.cu_stream()) }
            .map_err(failed)
    }

    /// The first `len` values of a buffer, after all that was asked for is done.
    pub(crate) fn download<T: DeviceRepr + Default + Clone>(
        &self,
        slice: &CudaSlice<T>,
        len: usize,
    ) -> Result<Vec<T>> {
        let mut values = vec![T::default(); len];
        if len > 0 {
            self.stream.memcpy_dtoh(&slice.slice(..len), &mut values).map_err(failed)?;
        }
        self.synchronize()?;
        Ok(values)
    }

    /// How full the memory is.
    pub fn memory(&self) -> Result<Memory> {
        let (free, total) = self.context.mem_get_info().map_err(failed)?;
        let attribute = |attribute| -> Result<u64> {
            let mut value = 0u64;
            // SAFETY: the pool lives as long as the device; these attributes are u64.
            #[allow(unsafe_code)]
            unsafe {
                let pool = result::device::get_default_mem_pool(self.context.cu_device()).map_err(failed)?;
                result::mem_pool::get_attribute(pool, attribute, (&raw mut value).cast::<c_void>())
                    .map_err(failed)?;
            }
            Ok(value)
        };
        let used = attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        let reserved = attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let peak = attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?;
        let reserved_peak = attribute(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)?;
        let free = free as u64 + reserved.saturating_sub(used);
        Ok(Memory { free, total: total as u64, used, peak, reserved_peak })
    }
}
