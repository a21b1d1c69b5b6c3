//! f32 values on a device that stay in one place: frozen vectors, and the adapters' parameters,
//! gradients and moments.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaSlice;

use super::Device;
use super::cuda::{Buffer, Gpu, View, ViewMut, buffer_bytes};
use crate::{Result, error};

/// A row of f32 values.
#[derive(Debug)]
pub enum Vector {
    /// On the host.
    Cpu(Vec<f32>),
    /// On a GPU.
    Cuda(GpuVector),
}

/// A row of f32 values on a GPU.
#[derive(Debug)]
pub struct GpuVector {
    gpu: Arc<Gpu>,
    values: Buffer<f32>,
    len: usize,
}

impl Vector {
    /// Zeros.
    pub fn zeros(len: usize, device: &Device) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self::Cpu(vec![0.0; len])),
            Device::Cuda(gpu) => Ok(Self::Cuda(GpuVector::new(gpu, gpu.zeros(len)?, len))),
        }
    }

    /// Arbitrary values on a GPU, for a kernel to write.
    pub(crate) fn on_gpu(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        Ok(Self::Cuda(GpuVector::new(gpu, gpu.allocate(len)?, len)))
    }

    /// These values, moved to `device`.
    pub fn from_vec(values: Vec<f32>, device: &Device) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self::Cpu(values)),
            Device::Cuda(gpu) => Ok(Self::Cuda(GpuVector::new(gpu, gpu.upload(&values)?, values.len()))),
        }
    }

    /// Bytes of a GPU's memory that `len` values take.
    pub(crate) fn gpu_bytes(len: usize) -> u64 {
        buffer_bytes::<f32>(len)
    }

    /// Moves the values to unified memory, where they are on a GPU.
    pub(crate) fn paged(self) -> Result<Self> {
        match self {
            Self::Cpu(_) => Ok(self),
            Self::Cuda(vector) => {
                let values = vector.gpu.unified(&vector.gpu.read(&vector.values, vector.len)?)?;
                Ok(Self::Cuda(GpuVector { values, ..vector }))
            }
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Cpu(values) => values.len(),
            Self::Cuda(vector) => vector.len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values, where they are on the host.
    pub fn host(&self) -> Result<&[f32]> {
        match self {
            Self::Cpu(values) => Ok(values),
            Self::Cuda(_) => Err(error!(Bug, "values on the host expected, found them on a GPU")),
        }
    }

    /// The values to change, where they are on the host.
    pub fn host_mut(&mut self) -> Result<&mut [f32]> {
        match self {
            Self::Cpu(values) => Ok(values),
            Self::Cuda(_) => Err(error!(Bug, "values on the host expected, found them on a GPU")),
        }
    }

    /// The values, where they are on a GPU.
    pub(crate) fn gpu(&self) -> Result<&GpuVector> {
        match self {
            Self::Cpu(_) => Err(error!(Bug, "values on a GPU expected, found them on the host")),
            Self::Cuda(vector) => Ok(vector),
        }
    }

    /// The values to change, where they are on a GPU.
    pub(crate) fn gpu_mut(&mut self) -> Result<&mut GpuVector> {
        match self {
            Self::Cpu(_) => Err(error!(Bug, "values on a GPU expected, found them on the host")),
            Self::Cuda(vector) => Ok(vector),
        }
    }

    /// A copy of the values.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match self {
            Self::Cpu(values) => Ok(values.clone()),
            Self::Cuda(GpuVector { gpu, values, len, .. }) => gpu.read(values, *len),
        }
    }

    /// Overwrites all values with zeros.
    pub fn fill_zero(&mut self) -> Result<()> {
        match self {
            Self::Cpu(values) => {
                values.fill(0.0);
                Ok(())
            }
            Self::Cuda(vector) => match &mut vector.values {
                Buffer::Own(values) => vector.gpu.fill_zero(values),
                Buffer::Unified { .. } => Err(error!(Bug, "zeros in unified memory")),
            },
        }
    }
}

impl GpuVector {
    fn new(gpu: &Arc<Gpu>, values: CudaSlice<f32>, len: usize) -> Self {
        Self { gpu: Arc::clone(gpu), values: Buffer::Own(values), len }
    }

    /// Brings values in unified memory to the GPU.
    pub(crate) fn prefetch(&self) -> Result<()> {
        self.values.prefetch()
    }

    /// The GPU that holds the values.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The values in `range`, as a row to read.
    pub(crate) fn view(&self, range: Range<usize>) -> Result<View<'_, f32>> {
        self.values.view().columns(0..self.len)?.columns(range)
    }

    /// The values in `range`, as a row to write.
    pub(crate) fn view_mut(&mut self, range: Range<usize>) -> Result<ViewMut<'_, f32>> {
        self.values.view_mut().columns(0..self.len)?.columns(range)
    }
}
