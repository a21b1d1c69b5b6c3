//! Numbers side by side in a register, with the operators of single ones.
//!
//! Products and sums are never contracted into fused ones, so every instruction set gives the same bits.

use std::ops::{Add, Div, Mul, Sub};

use pulp::Simd;

/// As many numbers as a register of `S` has lanes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wide<S: Simd> {
    simd: S,
    lanes: S::f32s,
}

impl<S: Simd> Wide<S> {
    /// The same number in every lane.
    #[inline(always)]
    pub(super) fn splat(simd: S, number: f32) -> Self {
        Self { simd, lanes: simd.splat_f32s(number) }
    }

    /// The number `number` in every lane of a register like this one.
    #[inline(always)]
    pub(super) fn same(self, number: f32) -> Self {
        Self::splat(self.simd, number)
    }

    /// The numbers of the register `part` of `numbers`, whose length is a multiple of the lanes.
    #[inline(always)]
    pub(super) fn load(simd: S, numbers: &[f32], part: usize) -> Self {
        Self { simd, lanes: S::as_simd_f32s(numbers).0[part] }
    }

    /// Stores the numbers where [`Wide::load`] has them from.
    #[inline(always)]
    pub(super) fn store(self, numbers: &mut [f32], part: usize) {
        S::as_mut_simd_f32s(numbers).0[part] = self.lanes;
    }

    /// The smaller number in each lane; `other` where one of them is NaN.
    #[inline(always)]
    pub(super) fn min(self, other: Self) -> Self {
        Self { lanes: self.simd.min_f32s(self.lanes, other.lanes), ..self }
    }

    /// The larger number in each lane; `other` where one of them is NaN.
    #[inline(always)]
    pub(super) fn max(self, other: Self) -> Self {
        Self { lanes: self.simd.max_f32s(self.lanes, other.lanes), ..self }
    }

    /// The magnitudes.
    #[inline(always)]
    pub(super) fn abs(self) -> Self {
        Self { lanes: self.simd.abs_f32s(self.lanes), ..self }
    }

    /// The square roots.
    #[inline(always)]
    pub(super) fn sqrt(self) -> Self {
        Self { lanes: self.simd.sqrt_f32s(self.lanes), ..self }
    }

    /// The nearest whole numbers, as [`super::nearest`] has them.
    #[inline(always)]
    pub(super) fn nearest(self) -> Self {
        let shift = self.same(super::SHIFT);
        (self + shift) - shift
    }

    /// Which lanes have a smaller number than `other`.
    #[inline(always)]
    pub(super) fn is_below(self, other: Self) -> Mask<S> {
        Mask { simd: self.simd, lanes: self.simd.less_than_f32s(self.lanes, other.lanes) }
    }

    /// Which lanes have a number above zero.
    #[inline(always)]
    pub(super) fn is_positive(self) -> Mask<S> {
        self.same(0.0).is_below(self)
    }

    /// Which lanes have zero.
    #[inline(always)]
    pub(super) fn is_zero(self) -> Mask<S> {
        let zero = self.simd.splat_f32s(0.0);
        Mask { simd: self.simd, lanes: self.simd.equal_f32s(self.lanes, zero) }
    }
}

/// Some lanes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mask<S: Simd> {
    simd: S,
    lanes: S::m32s,
}

impl<S: Simd> Mask<S> {
    /// The lanes that are in both.
    #[inline(always)]
    pub(super) fn and(self, other: Self) -> Self {
        Self { lanes: self.simd.and_m32s(self.lanes, other.lanes), ..self }
    }

    /// The numbers of `these` in these lanes, and of `others` in all others.
    #[inline(always)]
    pub(super) fn select(self, these: Wide<S>, others: Wide<S>) -> Wide<S> {
        Wide { simd: self.simd, lanes: self.simd.select_f32s(self.lanes, these.lanes, others.lanes) }
    }
}

impl<S: Simd> Add for Wide<S> {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self { lanes: self.simd.add_f32s(self.lanes, other.lanes), ..self }
    }
}

impl<S: Simd> Sub for Wide<S> {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self { lanes: self.simd.sub_f32s(self.lanes, other.lanes), ..self }
    }
}

impl<S: Simd> Mul for Wide<S> {
    type Output = Self;

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self { lanes: self.simd.mul_f32s(self.lanes, other.lanes), ..self }
    }
}

impl<S: Simd> Div for Wide<S> {
    type Output = Self;

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self { lanes: self.simd.div_f32s(self.lanes, other.lanes), ..self }
    }
}
