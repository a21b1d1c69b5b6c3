//! What the layers of a mixture's experts will take, before any of it is loaded.

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
}
