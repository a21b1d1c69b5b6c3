//! Wide registers for plain loops: the compiler vectorises what is inlined into [`vectorized`]
//! for AVX-512, AVX2 or the baseline, and the processor at hand picks one at run time.
//!
//! Products and sums are never contracted into fused ones, so all paths give the same bits.

use pulp::NullaryFnOnce;

/// Runs `work` once, compiled for the widest instruction set there is. A closure that says `#[inline(always)]` is sure to
/// be inlined: it is called as [`FnMut`], because Rust calls it as [`FnOnce`] through a function that is not.
#[inline(always)]
pub(crate) fn vectorized<R>(work: impl FnMut() -> R) -> R {
    pulp::Arch::new().dispatch(Work(work))
}

struct Work<F>(F);

impl<R, F: FnMut() -> R> NullaryFnOnce for Work<F> {
    type Output = R;

    #[inline(always)]
    fn call(mut self) -> R {
        (self.0)()
    }
}
