//! What a stack takes on a GPU, before any of it is loaded.

use super::super::LinearSpec;
use super::lora;
use super::weight::{Frozen, PART};
use crate::device::cuda::buffer_bytes;

impl LinearSpec {
    /// Bytes of the weights on a GPU, or of a slot where they are streamed.
    pub(crate) fn weight_bytes_on_gpu(&self) -> u64 {
        self.weights.iter().map(Frozen::bytes).sum()
    }

    /// Bytes of weights and biases on a GPU.
    pub(crate) fn gpu_bytes(&self) -> u64 {
        self.weight_bytes_on_gpu() + other_bytes(self)
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
