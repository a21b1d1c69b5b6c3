//! What the layers of a mixture's experts take on a GPU, before any of it is loaded.

use super::super::GroupedLinearSpec;
use super::adapters;
use crate::device::cuda::buffer_bytes;
use crate::kernels::linear::WeightSpec;
use crate::kernels::linear::cuda::PART;
use crate::nf4::{DynamicMap, NF4};

impl GroupedLinearSpec {
    /// Bytes of the weights on a GPU, or of a slot where they are streamed.
    pub(crate) fn weight_bytes_on_gpu(&self) -> u64 {
        if !self.is_quantized() {
            return buffer_bytes::<u16>(self.len());
        }
        let quantized = || {
            self.all().filter_map(|weight| match weight {
                WeightSpec::Quantized(quantized) => Some(quantized),
                WeightSpec::Dense(..) => None,
            })
        };
        let absmax = |nested: Option<usize>, blocks: usize| nested.unwrap_or(blocks);
        let codes: usize = quantized().filter(|q| q.nested_blocks.is_some()).map(|q| q.blocks).sum();
        let tables = NF4.len() + if codes > 0 { DynamicMap::LEN } else { 0 };
        buffer_bytes::<u8>(quantized().map(|q| q.packed_len()).sum())
            + buffer_bytes::<f32>(quantized().map(|q| absmax(q.nested_blocks, q.blocks)).sum())
            + buffer_bytes::<u8>(codes)
            + buffer_bytes::<f32>(tables)
    }

    /// Bytes of the weights on a GPU, and of the table of their addresses.
    pub(crate) fn gpu_bytes(&self) -> u64 {
        self.weight_bytes_on_gpu() + table_bytes(self)
    }

    /// Bytes of the copies on a GPU of an adapter of this rank.
    pub(crate) fn adapter_bytes(&self, rank: usize) -> u64 {
        match rank {
            0 => 0,
            _ => adapters::bytes(self.weights.len(), self.inputs(), self.outputs(), rank),
        }
    }
}

/// Bytes of the table of addresses, which stays on the GPU.
fn table_bytes(spec: &GroupedLinearSpec) -> u64 {
    match spec.is_quantized() {
        true => buffer_bytes::<u64>(PART * spec.all().count()),
        false => 0,
    }
}
