//! What a stack of projections will take, before any of it is loaded.

use super::WeightSpec;

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
}
