//! Which instructions the inner loops use. All give the same bits.

use std::sync::LazyLock;

/// A set of instructions that the running processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Simd {
    /// Any processor.
    Portable,
    /// x86-64 with AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 F, BW and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

static BEST: LazyLock<Simd> = LazyLock::new(|| Simd::available().pop().unwrap_or(Simd::Portable));

impl Simd {
    /// The fastest that the processor has.
    pub fn best() -> Self {
        *BEST
    }

    /// All that the processor has, the fastest last. Nothing else makes values other than
    /// [`Simd::Portable`], so holding one proves that its instructions exist.
    pub fn available() -> Vec<Self> {
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
