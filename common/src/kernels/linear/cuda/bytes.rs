//! What a stack takes on a GPU, before any of it is loaded.

use super::super::LinearSpec;
use super::lora;
use super::weight::{Frozen, PART};
use crate::device::cuda::{ScratchSizes, buffer_bytes};

impl LinearSpec {
    /// Bytes of the weights on a GPU, or of a slot where they are streamed.
    pub(crate) fn weight_bytes_on_gpu(&self) -> u64 {
        self.weights.iter().map(Frozen::bytes).sum()
    }

    /// Bytes of weights and biases on a GPU.
    pub(crate) fn gpu_bytes(&self) -> u64 {
        self.weight_bytes_on_gpu() + other_bytes(self)
    }

    /// Scratch that the weights are dequantized into on a GPU, where `others` is what other stacks need.
    pub(crate) fn scratch_sizes(&self, others: ScratchSizes) -> ScratchSizes {
        if self.is_quantized() { others.with(self.len()) } else { others }
    }

    /// Bytes that `Linear::cache_dequantized` takes on a GPU for the 16-bit copies of the weights.
    pub(crate) fn dequantized_bytes(&self) -> u64 {
        match self.is_quantized() {
            true => dequantized(self.len()),
            false => 0,
        }
    }

    /// Bytes of the copies on a GPU of adapters with `ranks` ranks in all.
    pub(crate) fn adapter_bytes(&self, ranks: usize) -> u64 {
        match ranks {
            0 => 0,
            _ => lora::bytes(self.inputs(), self.outputs(), ranks),
        }
    }
}

/// Bytes that `Stack::new` takes besides the weights, without scratch.
fn other_bytes(spec: &LinearSpec) -> u64 {
    let mut bytes = 0;
    if spec.has_bias {
        bytes += buffer_bytes::<u16>(spec.outputs());
    }
    if spec.is_quantized() {
        bytes += buffer_bytes::<u64>(PART * spec.weights.len());
    }
    bytes
}

/// Bytes that 16-bit copies of `len` numbers take.
pub(super) fn dequantized(len: usize) -> u64 {
    buffer_bytes::<u16>(len)
}
