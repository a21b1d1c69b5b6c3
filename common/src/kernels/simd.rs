//! Wide registers for plain loops: the compiler vectorises what is inlined into [`vectorized`]
//! for AVX-512, AVX2 or the baseline, and the processor at hand picks one at run time.
//!
//! Products and sums are never contracted into fused ones, so all paths give the same bits.

/// Runs `work` compiled for the widest instruction set there is.
#[inline(always)]
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}
