//! The sizes of activations on the host and on a GPU.

/// Bytes of activations on a device.
#[derive(Debug, Clone, Copy)]
pub(super) struct ActivationSizes {
    /// Bytes of a value.
    value: usize,
    /// The ranks of a stack's adapters are rounded up to a multiple of this.
    ranks: usize,
}

impl ActivationSizes {
    /// f32.
    pub(super) const HOST: Self = Self { value: 4, ranks: 1 };
    /// 16 bits.
    pub(super) const GPU: Self = Self { value: 2, ranks: 8 };

    /// Bytes of `count` values.
    pub(super) fn values(self, count: usize) -> u64 {
        (self.value * count) as u64
    }

    /// Bytes of x·Aᵀ of a token, for a stack whose adapters have `ranks` ranks.
    pub(super) fn lora_hidden(self, ranks: usize) -> u64 {
        self.values(ranks.next_multiple_of(self.ranks))
    }
}
