//! What the layers of a mixture's experts will take, before any of it is loaded.

use super::cuda;
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

    /// K
    pub(crate) fn inputs(&self) -> usize {
        self.all().next().map_or(0, |weight| weight.shape()[1])
    }

    /// N
    pub(crate) fn outputs(&self) -> usize {
        self.weights.first().map_or(0, |weights| weights.iter().map(|weight| weight.shape()[0]).sum())
    }

    /// Numbers of all weights.
    pub(crate) fn len(&self) -> usize {
        self.all().map(WeightSpec::len).sum()
    }

    /// Whether all weights are in 4 bits.
    pub(crate) fn is_quantized(&self) -> bool {
        self.all().all(|weight| matches!(weight, WeightSpec::Quantized(_)))
    }

    /// Bytes of the weights on a GPU, or of a slot where they are streamed.
    pub(crate) fn weight_bytes_on_gpu(&self) -> u64 {
        cuda::Experts::weight_bytes(self)
    }

    /// Bytes of the weights on a GPU, and of the table of their addresses.
    pub(crate) fn gpu_bytes(&self) -> u64 {
        cuda::Experts::weight_bytes(self) + cuda::Experts::table_bytes(self)
    }

    /// Scratch that the weights are dequantized into on a GPU, where `others` is what other layers need.
    pub(crate) fn scratch_sizes(&self, others: ScratchSizes) -> ScratchSizes {
        if self.is_quantized() { others.with(self.len()) } else { others }
    }

    /// Bytes that [`super::GroupedLinear::cache_dequantized`] takes on a GPU for the 16-bit copies of the weights.
    pub(crate) fn dequantized_bytes(&self) -> u64 {
        match self.is_quantized() {
            true => cuda::dequantized_bytes(self.len()),
            false => 0,
        }
    }

    /// Bytes of the copies on a GPU of an adapter of this rank.
    pub(crate) fn adapter_bytes(&self, rank: usize) -> u64 {
        match rank {
            0 => 0,
            _ => cuda::adapter_bytes(self.weights.len(), self.inputs(), self.outputs(), rank),
        }
    }
}
