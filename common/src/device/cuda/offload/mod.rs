//! Tensors that wait on the host while a GPU needs its memory for others: the inputs of blocks, between their forward and
//! their backward.
//!
//! A tensor is copied to page-locked memory while the computation that reads it last runs, and copied back during the
//! computation before the one that needs it. All copies run on one stream, in the order of the calls. [`journey`]
//! decides when copies wait for computations and computations for copies, and is tested without a GPU; [`shelf`]
//! decides which memory of the host is used.

mod journey;
mod shelf;

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};

use super::{Gpu, GpuTensor, failed};
use crate::{Result, error};

use journey::{Journey, Streams};
use shelf::{HostMemory, Shelf};

/// The stream of copies to the host and back, and the host's memory.
pub(super) struct Offload {
    stream: Arc<CudaStream>,
    shelf: Mutex<Shelf<HostMemory>>,
}

impl Offload {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self> {
        Ok(Self { stream: context.new_stream().map_err(failed)?, shelf: Mutex::default() })
    }

    /// Returns memory of the host with room for `bytes` bytes.
    fn memory(&self, gpu: &Gpu, bytes: usize) -> Result<HostMemory> {
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(memory) = shelf.take(bytes) {
            return Ok(memory);
        }
        if let Some(unfit) = shelf.take_largest() {
            // The last copy may still use it.
            self.stream.synchronize().map_err(failed)?;
            drop(unfit);
        }
        HostMemory::new(gpu, bytes)
    }

    fn put_back(&self, memory: HostMemory) {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).put(memory);
    }
}

impl Drop for Offload {
    /// The memory is freed after this, which no copy may still use. A GPU that has failed copies no more.
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}

/// A tensor that waits on the host, or is on its way there or back.
pub(crate) struct Offloaded(Journey<OnGpu>);

impl Offloaded {
    /// Begins to copy a tensor to the host, after all that was queued to compute.
    pub(crate) fn begin(tensor: &GpuTensor) -> Result<Self> {
        let gpu = tensor.gpu();
        let memory = gpu.offload.memory(gpu, tensor.len() * size_of::<u16>())?;
        let streams = OnGpu {
            gpu: Arc::clone(gpu),
            memory: Some(memory),
            shape: tensor.shape().to_vec(),
            ready: gpu.context.new_event(None).map_err(failed)?,
            copied: gpu.context.new_event(None).map_err(failed)?,
        };
        Journey::begin(streams, tensor.clone()).map(Self)
    }

    /// Gives up the memory of the GPU. What is queued to compute from here on runs after the copy.
    pub(crate) fn release(&mut self) -> Result<()> {
        self.0.release()
    }

    /// Begins to copy the tensor back, after all that was queued to compute.
    pub(crate) fn fetch(&mut self) -> Result<()> {
        self.0.fetch()
    }

    /// The tensor, for what is queued to compute from here on.
    pub(crate) fn take(self) -> Result<GpuTensor> {
        self.0.take()
    }
}

/// The streams of a GPU, and the place of one tensor on the host.
struct OnGpu {
    gpu: Arc<Gpu>,
    /// The memory, until it is put back.
    memory: Option<HostMemory>,
    shape: Vec<usize>,
    /// What was queued to compute before a copy is done.
    ready: CudaEvent,
    /// The copy is done.
    copied: CudaEvent,
}

impl OnGpu {
    /// Queues a copy after all that was queued to compute. After an error, no copy is under way.
    fn queue(&mut self, copy: impl FnOnce(&mut [u8], &CudaStream) -> Result<()>) -> Result<()> {
        let bytes = size_of::<u16>() * self.shape.iter().product::<usize>();
        let memory =
            self.memory.as_mut().ok_or_else(|| error!(Bug, "a tensor without a place on the host"))?;
        let memory = &mut memory.bytes_mut()[..bytes];
        let stream = &self.gpu.offload.stream;
        self.ready.record(&self.gpu.stream).map_err(failed)?;
        stream.wait(&self.ready).map_err(failed)?;
        self.gpu.bind()?;
        let queued = copy(memory, stream).and_then(|()| self.copied.record(stream).map_err(failed));
        queued.inspect_err(|_| self.drain())
    }

    fn drain(&self) {
        // A GPU that has failed copies no more.
        let _ = self.gpu.offload.stream.synchronize();
    }
}

impl Streams for OnGpu {
    type Tensor = GpuTensor;

    fn copy_out(&mut self, tensor: &GpuTensor) -> Result<()> {
        let from = tensor.view()?.address();
        self.queue(|memory, stream| {
            // SAFETY: the tensor holds as many bytes as this part of the memory, and is kept until what computes waits for
            // the copy (`Journey`). The memory is used by copies of this stream alone, and freed after them.
            #[allow(unsafe_code)]
            unsafe { result::memcpy_dtoh_async(memory, from, stream.cu_stream()) }.map_err(failed)
        })
    }

    fn copy_back(&mut self) -> Result<GpuTensor> {
        let mut tensor = GpuTensor::new(&self.gpu, &self.shape)?;
        let to = tensor.view_mut()?.address();
        self.queue(|memory, stream| {
            // SAFETY: as for `copy_out`; the tensor was allocated before what the copy waits for.
            #[allow(unsafe_code)]
            unsafe { result::memcpy_htod_async(to, memory, stream.cu_stream()) }.map_err(failed)
        })?;
        Ok(tensor)
    }

    fn wait(&mut self) -> Result<()> {
        self.gpu.stream.wait(&self.copied).map_err(failed)
    }

    fn drain(&mut self) {
        OnGpu::drain(self);
    }
}

impl Drop for OnGpu {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.gpu.offload.put_back(memory);
        }
    }
}
