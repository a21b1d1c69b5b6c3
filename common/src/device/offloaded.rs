//! A tensor that a GPU has no room for while it is not needed.

use super::Tensor;
use super::cuda::Offloaded;
use crate::Result;

/// A tensor that waits in memory of the host, from which a GPU brings it back. A tensor of the CPU stays where it is.
pub(crate) enum OffloadedTensor {
    /// A tensor on the host.
    Cpu(Tensor),
    /// A tensor of a GPU, or its copy on the host.
    Cuda(Offloaded),
}

impl OffloadedTensor {
    /// Begins to copy a tensor to the host, while the device computes with it.
    pub(crate) fn begin(tensor: &Tensor) -> Result<Self> {
        match tensor {
            Tensor::Cpu(_) => Ok(Self::Cpu(tensor.clone())),
            Tensor::Cuda(tensor) => Offloaded::begin(tensor).map(Self::Cuda),
        }
    }

    /// Gives up the memory of the device. What is queued to compute from here on runs after the copy.
    pub(crate) fn release(&mut self) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Cuda(offloaded) => offloaded.release(),
        }
    }

    /// Begins to copy the tensor back, after all that was queued to compute.
    pub(crate) fn fetch(&mut self) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Cuda(offloaded) => offloaded.fetch(),
        }
    }

    /// The tensor on the device, where it may be used at once.
    pub(crate) fn take(self) -> Result<Tensor> {
        match self {
            Self::Cpu(tensor) => Ok(tensor),
            Self::Cuda(offloaded) => offloaded.take().map(Tensor::Cuda),
        }
    }
}
