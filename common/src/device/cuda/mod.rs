//! One GPU, through the driver alone: kernels are compiled when they are first used, matrix products
//! are cuBLASLt's. Built without CUDA; libraries are looked for when a GPU is opened.
//!
//! Order on the device: everything runs on one stream, so that work and the freeing of buffers
//! follow the order of the calls. There are exceptions. On a second stream, `Gpu::ahead`, the next
//! weight is dequantized while a product runs; it meets the first through the events of
//! `Gpu::with_dequantized`. On others, weights that have no room on the GPU are copied to it (`streaming/`), and tensors
//! to the host and back (`offload/`).

mod buffer;
mod compile;
mod download;
mod float16;
mod launch;
mod libraries;
mod memory;
mod nccl;
mod offload;
mod page_locked;
mod product;
mod products;
mod scratch;
pub(crate) mod streaming;
mod tensor;
#[cfg(test)]
mod two_streams;
mod utilization;
mod vector;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, sys};

use crate::{Context, Error, Result, error};

pub(crate) use buffer::Buffer;
pub use compile::{Compiled, KernelSource, compile};
pub use download::{Download, Downloaded};
pub use float16::Float16;
use launch::address;
pub(crate) use launch::{Argument, Grid};
pub use libraries::find_compiler;
pub use memory::Memory;
pub(crate) use memory::buffer_bytes;
pub use nccl::{Check, Communicator};
pub(crate) use offload::Offloaded;
pub(crate) use product::{Number, Product};
pub(crate) use scratch::{ScratchSizes, WeightId};
pub use streaming::Place;
pub(crate) use streaming::part_bytes;
pub(crate) use streaming::{FrozenBuffer, GpuMemory, StreamedBlock, Streaming, StreamingLoader, Way};
pub use tensor::GpuTensor;
pub(crate) use tensor::SOURCE as TENSOR;
pub use utilization::Utilization;
pub use vector::GpuVector;
pub(crate) use view::{View, ViewMut};

/// The oldest compute capability that the kernels are written for: Ampere's.
const OLDEST: u32 = 80;

/// An open GPU.
pub struct Gpu {
    context: Arc<CudaContext>,
    /// Where everything runs.
    stream: Arc<CudaStream>,
    /// Where weights are dequantized ahead of the products that read them.
    ahead: Arc<CudaStream>,
    ordinal: usize,
    float16: Float16,
    name: String,
    /// The compute capability, as 90 for 9.0.
    architecture: u32,
    multiprocessors: usize,
    loaded: Mutex<Loaded>,
    products: products::Products,
    /// Scratch that weights are dequantized into.
    scratch: Mutex<scratch::DoubleBuffer>,
    /// Page-locked memory that rows of the embedding pass through.
    staging: Mutex<Option<memory::Staging>>,
    /// What brings tensors to the host and back.
    offload: offload::Offload,
    /// Page-locked memory that results are copied to, and that is not in use.
    downloads: Mutex<Vec<download::DownloadBuffer>>,
}

/// Kernels that have been used.
#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: HashMap<(&'static str, &'static str), CudaFunction>,
    constants: HashMap<(&'static str, &'static str), i32>,
}

/// Bytes of a GPU's memory that matrix products take for themselves and for scratch of these sizes.
pub(crate) fn scratch_bytes(sizes: ScratchSizes) -> u64 {
    products::workspace_bytes() + sizes.bytes()
}

impl Gpu {
    /// How many GPUs there are; none without a driver.
    pub fn count() -> usize {
        match libraries::driver_is_present() {
            true => CudaContext::device_count().map_or(0, |count| usize::try_from(count).unwrap_or(0)),
            false => 0,
        }
    }

    /// Opens GPU `ordinal`, to compute with these numbers.
    pub fn open(ordinal: usize, float16: Float16) -> Result<Arc<Self>> {
        if !libraries::driver_is_present() {
            return Err(error!("there is no NVIDIA driver: libcuda.so.1 was not found")
                .hint("install the driver, or use --device cpu"));
        }
        let count = Self::count();
        if ordinal >= count {
            return Err(error!("GPU {ordinal} was asked for, and there are {count}")
                .hint("nvidia-smi lists them; CUDA_VISIBLE_DEVICES hides some; or use --device cpu"));
        }
        let context = CudaContext::new(ordinal).map_err(failed).context("cannot open the GPU")?;
        let name = context.name().map_err(failed)?;
        let (major, minor) = context.compute_capability().map_err(failed)?;
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(attribute).map_err(failed)?;
        let architecture = u32::try_from(major * 10 + minor).unwrap_or(0);
        if architecture < OLDEST {
            return Err(error!(
                "{name} has compute capability {major}.{minor}, and 8.0 is needed (Ampere, 2020)"
            )
            .hint("use another GPU, or --device cpu"));
        }
        libraries::find_compiler()?;
        libraries::find_products()?;
        // SAFETY: cudarc's events would order a buffer's uses on several streams. Here all work on buffers runs on
        // one stream in the order of the calls. The scratch that a second stream writes is ordered by the events in
        // `scratch.rs`, and the slots that a third one writes by those in `streaming`.
        #[allow(unsafe_code)]
        unsafe {
            context.disable_event_tracking();
        }
        let stream = context.new_stream().map_err(failed)?;
        let ahead = context.new_stream().map_err(failed)?;
        memory::keep_freed_memory(&context)?;
        let products = products::Products::new(&stream)?;
        let offload = offload::Offload::new(&context)?;
        let scratch = Mutex::new(scratch::DoubleBuffer::new(&context, &stream)?);
        Ok(Arc::new(Self {
            context,
            stream,
            ahead,
            ordinal,
            float16,
            name,
            architecture,
            multiprocessors: usize::try_from(multiprocessors).unwrap_or(1).max(1),
            loaded: Mutex::default(),
            products,
            scratch,
            staging: Mutex::default(),
            offload,
            downloads: Mutex::default(),
        }))
    }

    /// The name that NVIDIA gives the GPU.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number type that the GPU computes with.
    pub fn float16(&self) -> Float16 {
        self.float16
    }

    /// What tells the GPU from all others: its UUID, as nvidia-smi shows it.
    pub(crate) fn identity(&self) -> Result<String> {
        let digits = crate::hex(self.context.uuid().map_err(failed)?.bytes.map(|byte| byte as u8));
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| digits[range].to_owned());
        Ok(format!("GPU-{}", parts.join("-")))
    }

    /// The index of the GPU among those of the machine.
    pub(crate) fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// The compute capability, as 90 for 9.0.
    pub fn architecture(&self) -> u32 {
        self.architecture
    }

    /// How many processors it has, for kernels that size their grids by them.
    pub(crate) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// The newest CUDA version that the driver supports, as 13000 for 13.0.
    pub fn driver_version() -> i32 {
        let mut version = 0;
        // SAFETY: writes one integer.
        #[allow(unsafe_code)]
        unsafe {
            sys::cuDriverGetVersion(&mut version);
        }
        version
    }

    /// The stream that computes.
    pub(crate) fn stream(&self) -> &CudaStream {
        &self.stream
    }

    /// Waits until all that was asked for is done; errors of kernels come out here.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed)
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed)
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({}, {})", self.ordinal, self.name)
    }
}

impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        (self.ordinal, self.float16) == (other.ordinal, other.float16)
    }
}

impl Eq for Gpu {}

/// The driver's error as ours.
fn failed(error: DriverError) -> Error {
    let name =
        error.error_name().map_or_else(|_| format!("{error:?}"), |name| name.to_string_lossy().into_owned());
    let text =
        error.error_string().map_or_else(|_| String::new(), |text| format!(": {}", text.to_string_lossy()));
    match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => error!(OutOfMemory, "{name}{text}"),
        _ => error!(Gpu, "{name}{text}"),
    }
}
