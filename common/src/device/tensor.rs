//! A tensor of activations or gradients on a device.
//!
//! On the host it is a contiguous f32 candle tensor, on a GPU a buffer of 16-bit numbers. Tensors are values:
//! an op returns a new one.

use std::ops::{Deref, Range};

use candle_core::Storage;

use super::Device;
use super::cuda::GpuTensor;
use crate::{Result, error};

/// A tensor of activations or gradients, row-major and contiguous.
#[derive(Debug, Clone)]
pub enum Tensor {
    /// f32 on the host.
    Cpu(candle_core::Tensor),
    /// 16-bit numbers on a GPU.
    Cuda(GpuTensor),
}

/// The values of a host tensor, borrowed through the guard `G` of its storage.
struct HostSlice<G> {
    storage: G,
    start: usize,
    len: usize,
}

impl<G: Deref<Target = Storage>> Deref for HostSlice<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // `Tensor::host` has checked that the storage is f32 on the host and the range inside it.
        match &*self.storage {
            Storage::Cpu(storage) => match storage.as_slice::<f32>() {
                Ok(values) => &values[self.start..self.start + self.len],
                Err(_) => &[],
            },
            _ => &[],
        }
    }
}

impl Tensor {
    /// A host tensor of `shape` from its values.
    pub fn from_vec(values: Vec<f32>, shape: &[usize]) -> Result<Self> {
        Ok(Self::Cpu(candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu)?))
    }

    /// A tensor of `shape` on `device` from its values, which a GPU rounds to 16 bits.
    pub fn on(device: &Device, values: Vec<f32>, shape: &[usize]) -> Result<Self> {
        match device {
            Device::Cpu => Self::from_vec(values, shape),
            Device::Cuda(gpu) => {
                let values: Vec<u16> = values.into_iter().map(|value| gpu.float16().bits(value)).collect();
                Ok(Self::Cuda(GpuTensor::from_bits(gpu, &values, shape)?))
            }
        }
    }

    /// The values in f32.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match self {
            Self::Cpu(_) => Ok(self.host()?.to_vec()),
            Self::Cuda(tensor) => tensor.to_vec(),
        }
    }

    /// The tensor on the GPU, for an op whose other operands are there.
    pub(crate) fn gpu(&self) -> Result<&GpuTensor> {
        match self {
            Self::Cpu(_) => Err(error!(Bug, "a tensor on a GPU expected, found one on the host")),
            Self::Cuda(tensor) => Ok(tensor),
        }
    }

    /// Gives the tensor away, for an op on the GPU that may write over it.
    pub(crate) fn into_gpu(self) -> Result<GpuTensor> {
        match self {
            Self::Cpu(_) => Err(error!(Bug, "a tensor on a GPU expected, found one on the host")),
            Self::Cuda(tensor) => Ok(tensor),
        }
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Cpu(tensor) => tensor.dims(),
            Self::Cuda(tensor) => tensor.shape(),
        }
    }

    /// The extents of a matrix, or an error naming `what`.
    pub fn matrix(&self, what: &str) -> Result<(usize, usize)> {
        match *self.shape() {
            [rows, columns] => Ok((rows, columns)),
            ref shape => Err(error!(Bug, "{what}: a matrix expected, found shape {shape:?}")),
        }
    }

    /// Fails unless the shape is `expected`; `what` names the op and the argument.
    pub fn expect(&self, what: &str, expected: &[usize]) -> Result<()> {
        if self.shape() == expected {
            Ok(())
        } else {
            Err(error!(Bug, "{what}: shape {expected:?} expected, found {:?}", self.shape()))
        }
    }

    /// Bytes of the values.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        let size = match self {
            Self::Cpu(_) => size_of::<f32>(),
            Self::Cuda(_) => size_of::<u16>(),
        };
        (size * self.shape().iter().product::<usize>()) as u64
    }

    /// The values, borrowed from the host.
    pub(crate) fn host(&self) -> Result<impl Deref<Target = [f32]> + '_> {
        match self {
            Self::Cpu(tensor) => {
                let (storage, layout) = tensor.storage_and_layout();
                let (start, end) = layout
                    .contiguous_offsets()
                    .ok_or_else(|| error!(Bug, "a contiguous tensor expected, found {layout:?}"))?;
                match &*storage {
                    Storage::Cpu(values) if values.as_slice::<f32>()?.len() >= end => {}
                    _ => return Err(error!(Bug, "an f32 tensor on the host expected")),
                }
                Ok(HostSlice { storage, start, len: end - start })
            }
            Self::Cuda(_) => Err(error!(Bug, "a tensor on the host expected, found one on a GPU")),
        }
    }

    /// Elementwise sum of two tensors of one shape.
    pub fn add(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Self::Cpu(a), Self::Cpu(b)) => Ok(Self::Cpu(a.add(b)?)),
            (Self::Cuda(a), other) => Ok(Self::Cuda(a.add(other.gpu()?)?)),
            (Self::Cpu(_), Self::Cuda(_)) => Err(error!(Bug, "add: tensors of one device expected")),
        }
    }

    /// Every element times `factor`.
    pub fn scale(&self, factor: f32) -> Result<Self> {
        match self {
            Self::Cpu(tensor) => Ok(Self::Cpu(tensor.affine(f64::from(factor), 0.0)?)),
            Self::Cuda(tensor) => Ok(Self::Cuda(tensor.scale(factor)?)),
        }
    }

    /// The rows in `rows` of a matrix [T, C].
    pub(crate) fn rows(&self, rows: Range<usize>) -> Result<Self> {
        match self {
            Self::Cpu(tensor) => Ok(Self::Cpu(tensor.narrow(0, rows.start, rows.len())?)),
            Self::Cuda(tensor) => Ok(Self::Cuda(tensor.rows(rows)?)),
        }
    }

    /// Rows `indices` of a matrix [T, C], in that order: [indices.len(), C].
    pub fn gather_rows(&self, indices: &[u32]) -> Result<Self> {
        match self {
            Self::Cpu(tensor) => {
                let indices =
                    candle_core::Tensor::from_slice(indices, indices.len(), &candle_core::Device::Cpu)?;
                Ok(Self::Cpu(tensor.index_select(&indices, 0)?))
            }
            Self::Cuda(tensor) => Ok(Self::Cuda(tensor.gather_rows(indices)?)),
        }
    }

    /// The backward of [`Tensor::gather_rows`]: a zero matrix [rows, C] with our rows added at `indices`.
    pub fn scatter_rows(&self, indices: &[u32], rows: usize) -> Result<Self> {
        let (_, columns) = self.matrix("scatter_rows")?;
        match self {
            Self::Cpu(tensor) => {
                let device = &candle_core::Device::Cpu;
                let indices = candle_core::Tensor::from_slice(indices, indices.len(), device)?;
                let zeros = candle_core::Tensor::zeros((rows, columns), candle_core::DType::F32, device)?;
                Ok(Self::Cpu(zeros.index_add(&indices, tensor, 0)?))
            }
            Self::Cuda(tensor) => Ok(Self::Cuda(tensor.scatter_rows(indices, rows)?)),
        }
    }
}
