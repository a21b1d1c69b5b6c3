//! What a stack of projections will take, before any of it is loaded.

use super::{WeightSpec, cuda};
use crate::device::cuda::ScratchSizes;

/// A stack whose weights are known by the headers of their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinearSpec {
    /// The weight of each projection, in the order of the stack.
    pub(crate) weights: Vec<WeightSpec>,
    /// Whether any projection has a bias.
    pub(crate) has_bias: bool,
}

impl LinearSpec {
    /// K
    pub(crate) fn inputs(&self) -> usize {
        self.weights.first().map_or(0, |weight| weight.shape()[1])
    }

    /// ΣN over the stack.
    pub(crate) fn outputs(&self) -> usize {
        self.weights.iter().map(|weight| weight.shape()[0]).sum()
    }

    /// Numbers of all weights.
    pub(crate) fn len(&self) -> usize {
        self.weights.iter().map(WeightSpec::len).sum()
    }

    /// Whether all weights are in 4 bits.
    pub(crate) fn is_quantized(&self) -> bool {
        self.weights.iter().all(|weight| matches!(weight, WeightSpec::Quantized(_)))
    }

    /// Bytes of weights and biases on the host.
    pub(crate) fn bytes(&self) -> u64 {
        let bias = if self.has_bias { size_of::<f32>() * self.outputs() } else { 0 };
        self.weights.iter().map(WeightSpec::bytes).sum::<u64>() + bias as u64
    }

    /// Bytes of the weights on a GPU, or of a slot where they are streamed.
    pub(crate) fn weight_bytes_on_gpu(&self) -> u64 {
        cuda::Stack::weight_bytes(self)
    }

    /// Bytes of weights and biases on a GPU.
    pub(crate) fn gpu_bytes(&self) -> u64 {
        cuda::Stack::weight_bytes(self) + cuda::Stack::other_bytes(self)
    }

    /// Scratch that the weights are dequantized into on a GPU, where `others` is what other stacks need.
    pub(crate) fn scratch_sizes(&self, others: ScratchSizes) -> ScratchSizes {
        if self.is_quantized() { others.with(self.len()) } else { others }
    }

    /// Bytes that [`super::Linear::cache_dequantized`] takes on a GPU for the 16-bit copies of the weights.
    pub(crate) fn dequantized_bytes(&self) -> u64 {
        match self.is_quantized() {
            true => cuda::dequantized_bytes(self.len()),
            false => 0,
        }
    }

    /// Bytes of the copies on a GPU of adapters with `ranks` ranks in all.
    pub(crate) fn adapter_bytes(&self, ranks: usize) -> u64 {
        match ranks {
            0 => 0,
            _ => cuda::adapter_bytes(self.inputs(), self.outputs(), ranks),
        }
    }
}
