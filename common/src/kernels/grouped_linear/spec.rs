//! What the layers of a mixture's experts will take, before any of it is loaded.

use crate::device::cuda::ScratchSizes;
use crate::kernels::linear::WeightSpec;

/// Layers whose weights are known by the headers of their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupedLinearSpec {
    /// The weights of each expert, in the order of the stack.
    pub(crate) weights: Vec<Vec<WeightSpec>>,
}

impl GroupedLinearSpec {
    /// Every weight of every expert.
    pub(crate) fn all(&self) -> impl Iterator<Item = &WeightSpec> {
        self.weights.iter().flatten()
    }

    /// Bytes of the weights on the host.
    pub(crate) fn bytes(&self) -> u64 {
        self.all().map(WeightSpec::bytes).sum()
    }

    /// Bytes of the weights on a GPU.
    pub(crate) fn gpu_bytes(&self) -> u64 {
        self.bytes()
    }

    /// Scratch that the weights are dequantized into on a GPU, where `others` is what other stacks need.
    pub(crate) fn scratch_sizes(&self, others: ScratchSizes) -> ScratchSizes {
        others
    }

    /// Bytes of the 16-bit copies of the weights on a GPU.
    pub(crate) fn dequantized_bytes(&self) -> u64 {
        0
    }

    /// Bytes of the copies on a GPU of an adapter of rank `rank`.
    pub(crate) fn adapter_bytes(&self, _rank: usize) -> u64 {
        0
    }
}
