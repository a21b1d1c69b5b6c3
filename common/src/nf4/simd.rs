//! The instruction sets that the inner loops may use. All give the same bits.

use std::sync::LazyLock;

/// An instruction set that the running processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Simd {
    /// The baseline, which every processor has.
    Portable,
    /// AVX2 on x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW and VL on x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

static BEST: LazyLock<Simd> = LazyLock::new(|| Simd::available().pop().unwrap_or(Simd::Portable));

impl Simd {
    /// The fastest instruction set of the processor.
    pub(super) fn best() -> Self {
        *BEST
    }

    /// All instruction sets of the processor, the fastest last. Only this function makes values other than
    /// [`Simd::Portable`], so holding one proves that its instructions exist.
    pub(super) fn available() -> Vec<Self> {
        let mut available = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                available.push(Self::Avx2);
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
            {
                available.push(Self::Avx512);
            }
        }
        available
    }
}
