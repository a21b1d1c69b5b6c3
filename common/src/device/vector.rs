//! f32 values on a device that stay in one place: frozen vectors, and the adapters' parameters,
//! gradients and moments.

use std::sync::Arc;

use super::Device;
use super::cuda::{Gpu, GpuVector, buffer_bytes};
use crate::{Result, error};

/// A row of f32 values.
#[derive(Debug)]
pub enum Vector {
    /// On the host.
    Cpu(Vec<f32>),
    /// On a GPU.
    Cuda(GpuVector),
}

impl Vector {
    /// Zeros.
    pub fn zeros(len: usize, device: &Device) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self::Cpu(vec![0.0; len])),
            Device::Cuda(gpu) => GpuVector::zeros(gpu, len).map(Self::Cuda),
        }
    }

    /// Arbitrary values on a GPU, for a kernel to write.
    pub(crate) fn on_gpu(gpu: &Arc<Gpu>, len: usize) -> Result<Self> {
        GpuVector::new(gpu, len).map(Self::Cuda)
    }

    /// These values, moved to `device`.
    pub fn from_vec(values: Vec<f32>, device: &Device) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self::Cpu(values)),
            Device::Cuda(gpu) => GpuVector::from_host(gpu, &values).map(Self::Cuda),
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
            Self::Cuda(vector) => vector.paged().map(Self::Cuda),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Cpu(values) => values.len(),
            Self::Cuda(vector) => vector.len(),
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
            Self::Cuda(vector) => vector.to_vec(),
        }
    }

    /// Overwrites all values with zeros.
    pub fn fill_zero(&mut self) -> Result<()> {
        match self {
            Self::Cpu(values) => {
                values.fill(0.0);
                Ok(())
            }
            Self::Cuda(vector) => vector.fill_zero(),
        }
    }
}
