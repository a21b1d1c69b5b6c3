//! Numbers that options cannot have. Each check returns the number, or an error that names the option.

use common::{Error, Result};

/// A number of steps, or a share of them below 1.
pub(super) fn steps(option: &str, value: f64) -> Result<f64> {
    positive(option, value)?;
    match value < 1.0 || value.fract() == 0.0 {
        true => Ok(value),
        false => {
            Err(Error::usage(format!("{option}: a whole number, or a share below 1 expected, found {value}")))
        }
    }
}

/// A number of at least 1.
pub(super) fn at_least_1(option: &str, value: usize) -> Result<usize> {
    match value >= 1 {
        true => Ok(value),
        false => Err(Error::usage(format!("{option}: at least 1 expected, found {value}"))),
    }
}

/// A positive number that f32 can hold.
pub(super) fn positive(option: &str, value: f64) -> Result<f64> {
    match value > 0.0 {
        true => within_f32(option, value),
        false => Err(Error::usage(format!("{option}: a positive number expected, found {value}"))),
    }
}

/// A number of at least 0 that f32 can hold.
pub(super) fn at_least_0(option: &str, value: f64) -> Result<f64> {
    match value >= 0.0 {
        true => within_f32(option, value),
        false => Err(Error::usage(format!("{option}: a number of at least 0 expected, found {value}"))),
    }
}

/// A number that f32, in which values are computed with, can hold: more than 3.4·10³⁸ would be infinite.
fn within_f32(option: &str, value: f64) -> Result<f64> {
    match (value as f32).is_finite() {
        true => Ok(value),
        false => {
            Err(Error::usage(format!("{option}: a number below {:e} expected, found {value:e}", f32::MAX)))
        }
    }
}
