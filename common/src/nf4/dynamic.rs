//! The dynamic data types of "8-bit Approximations for Parallelism in Deep Learning"
//! (arXiv:1511.04561): 8-bit codes of numbers from -1 to 1, finer near zero.
//!
//! A code has a run of zero bits that gives the decimal exponent, and a linear fraction after it. The
//! signed type has from one fraction at `10^-6` up to 64 at `10^0`, of either sign; the unsigned type has
//! twice as many, of one sign. 0 and 1 are added.

use std::sync::LazyLock;

/// The values of a dynamic data type, equal to the bit to those of bitsandbytes' `create_dynamic_map`.
#[derive(Debug)]
pub struct DynamicMap {
    /// The value of each code, ascending.
    pub values: [f32; 256],
    /// The midpoints of neighbouring values, rounded down, so that every f32 number compares with them as
    /// with the exact midpoints. The code of a number is the count of thresholds below it.
    pub thresholds: [f32; 255],
}

impl DynamicMap {
    /// The number of codes.
    pub const LEN: usize = 256;

    /// The type of numbers from -0.993 to 1.
    pub fn signed() -> &'static Self {
        static MAP: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(true));
        &MAP
    }

    /// The type of numbers from 0 to 1.
    pub fn unsigned() -> &'static Self {
        static MAP: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(false));
        &MAP
    }

    fn new(signed: bool) -> Self {
        let mut values = vec![0.0, 1.0];
        for exponent in 0..7_i32 {
            let scale = 10.0_f64.powi(exponent - 6) as f32;
            let fractions = if signed { 1 << exponent } else { 2 << exponent };
            for fraction in 0..fractions {
                let mean = (boundary(fraction, fractions) + boundary(fraction + 1, fractions)) / 2.0;
                values.push(scale * mean);
                if signed {
                    values.push(-(scale * mean));
                }
            }
        }
        values.sort_by(f32::total_cmp);
        let threshold = |i: usize| {
            let midpoint = (f64::from(values[i]) + f64::from(values[i + 1])) / 2.0;
            let nearest = midpoint as f32;
            if f64::from(nearest) > midpoint { nearest.next_down() } else { nearest }
        };
        Self { thresholds: std::array::from_fn(threshold), values: std::array::from_fn(|i| values[i]) }
    }

    /// The code of the nearest value; of two equally near, the lower one.
    pub fn nearest(&self, value: f32) -> u8 {
        self.thresholds.partition_point(|&threshold| threshold < value) as u8
    }

    /// The value of a code.
    pub fn value(&self, code: u8) -> f32 {
        self.values[usize::from(code)]
    }
}

/// Computes `torch.linspace(0.1, 1, fractions + 1)[index]`: from the nearer end, in f32 with one rounding.
fn boundary(index: u32, fractions: u32) -> f32 {
    let step = (1.0_f32 - 0.1) / fractions as f32;
    if index < fractions.div_ceil(2) {
        step.mul_add(index as f32, 0.1)
    } else {
        (-step).mul_add((fractions - index) as f32, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_maps_are_those_of_bitsandbytes() {
        for (map, expected) in [
            (DynamicMap::signed(), "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c"),
            (DynamicMap::unsigned(), "305f002cc11278fb769d13b25b9fd0c7c83c8402c40a878fe086f4039fde6398"),
        ] {
            let bytes: Vec<u8> = map.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(hex(Sha256::digest(&bytes)), expected);
        }
    }

    #[test]
    fn nearest_is_the_nearest() {
        for map in [DynamicMap::signed(), DynamicMap::unsigned()] {
            let check = |value: f32| {
                let distance = |&code: &u8| (f64::from(value) - f64::from(map.value(code))).abs();
                let expected = (0..=255).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
                assert_eq!(map.nearest(value), expected, "{value}");
            };
            (-1100..=1100).for_each(|step| check(step as f32 / 1000.0));
            for threshold in map.thresholds {
                [threshold.next_down(), threshold, threshold.next_up()].into_iter().for_each(check);
            }
        }
    }
}
