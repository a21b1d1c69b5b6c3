//! How far values may be from what is expected.

#![allow(clippy::print_stderr)] // how much of each budget is used

/// A limit for differences, and the largest difference met.
#[derive(Debug)]
pub struct Budget {
    what: String,
    limit: f64,
    largest: f64,
    place: String,
}

impl Budget {
    /// A budget for `what`, in which no difference may be larger than `limit`.
    pub fn new(what: impl Into<String>, limit: f64) -> Self {
        Self { what: what.into(), limit, largest: 0.0, place: String::new() }
    }

    /// Meets the difference of two values, in units of `scale`. NaN is infinitely far.
    pub fn meet(&mut self, found: f64, expected: f64, scale: f64, place: impl FnOnce() -> String) {
        let difference = (found - expected).abs() / scale;
        let difference = if difference.is_nan() { f64::INFINITY } else { difference };
        if difference > self.largest {
            (self.largest, self.place) = (difference, format!("{}: {found}, expected {expected}", place()));
        }
    }

    /// Prints the largest difference.
    ///
    /// # Panics
    ///
    /// Where it exceeds the limit.
    pub fn settle(self) {
        let Self { what, limit, largest, place } = self;
        eprintln!("{what}: at most {largest:.2e} ({:.0} % of {limit:.0e}), {place}", 100.0 * largest / limit);
        assert!(largest <= limit, "{what}: {largest:e} exceeds {limit:e}, {place}");
    }
}

/// The largest difference of two lists of values, relative to the largest magnitude expected. NaN is
/// infinitely far.
///
/// # Panics
///
/// Where the lists differ in length.
pub fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "number of values");
    let scale = expected.iter().fold(1e-6_f32, |scale, value| scale.max(value.abs()));
    let largest = found.iter().zip(expected).fold(0.0_f32, |largest, (found, expected)| {
        let difference = (found - expected).abs();
        if difference.is_nan() { f32::INFINITY } else { largest.max(difference) }
    });
    largest / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_itself_is_within_the_budget() {
        let mut budget = Budget::new("x", 0.5);
        budget.meet(1.0, 2.0, 2.0, || "a".into());
        budget.settle();
    }

    #[test]
    #[should_panic(expected = "b: 3, expected 2")]
    fn the_largest_difference_fails_with_its_place() {
        let mut budget = Budget::new("x", 0.4);
        for (found, place) in [(1.9, "a"), (3.0, "b"), (2.1, "c")] {
            budget.meet(found, 2.0, 2.0, || place.into());
        }
        budget.settle();
    }

    #[test]
    #[should_panic(expected = "exceeds")]
    fn what_is_no_number_fails() {
        let mut budget = Budget::new("x", 0.5);
        budget.meet(f64::NAN, 1.0, 1.0, || "a".into());
        budget.meet(1.0, 1.0, 1.0, || "b".into());
        budget.settle();
    }

    #[test]
    fn differences_are_relative_to_the_largest_value() {
        assert_eq!(difference(&[1.0, -3.0], &[2.0, -4.0]), 0.25);
        assert_eq!(difference(&[f32::NAN, 1.0, 1.0], &[0.0, 1.0, 1.0]), f32::INFINITY);
    }
}
