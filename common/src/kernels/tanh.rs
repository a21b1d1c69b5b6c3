//! The hyperbolic tangent as straight-line arithmetic, so that loops over it vectorise; libm's does not.

use super::exp::exp;

/// `tanh(x)` within 4 units in the last place. NaN stays NaN.
///
/// An odd polynomial near 0 (the coefficients are the Cephes library's `tanhf`), `1 − 2 / (e^2x + 1)` elsewhere.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let square = x * x;
    let mut p = -5.704_988_7e-3;
    p = p * square + 2.063_909e-2;
    p = p * square - 5.373_971_6e-2;
    p = p * square + 1.333_144_2e-1;
    p = p * square - 3.333_328e-1;
    let near = p * square * x + x;
    let far = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::tanh;

    #[test]
    fn within_four_ulp_of_libm() {
        for step in -1_000_000..=1_000_000 {
            let x = step as f32 * 1e-5;
            let exact = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - exact).abs() / exact.abs().max(1e-30);
            assert!(error < 2.5e-7, "tanh({x}) is off by {error:e}");
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!([tanh(0.0), tanh(1e9), tanh(f32::INFINITY)], [0.0, 1.0, 1.0]);
        assert_eq!([tanh(-1e9), tanh(f32::NEG_INFINITY)], [-1.0, -1.0]);
        assert!(tanh(f32::NAN).is_nan());
    }
}
