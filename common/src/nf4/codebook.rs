//! The sixteen values of NF4 and FP4. This is the only copy: thresholds, packing and the CUDA
//! header are derived from it.

use std::fmt;

/// The two 4-bit types of bitsandbytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuantType {
    /// NormalFloat: quantiles of the normal distribution (QLoRA, arXiv:2305.14314, appendix E).
    Nf4,
    /// A sign, two exponent bits and one mantissa bit, scaled so that the largest value is 1.
    Fp4,
}

/// The value of each NF4 code, ascending.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The value of each FP4 code, whose high bit is the sign. The magnitudes, in twelfths, are 0, 1/16, 8, 12,
/// 4, 6, 2 and 3.
pub const FP4: [f32; 16] = {
    let twelfths = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
    let mut values = [0.0; 16];
    let mut code = 0;
    while code < 8 {
        values[code] = twelfths[code] / 12.0;
        // Zero has no sign: bitsandbytes' table holds +0 twice.
        values[code + 8] = 0.0 - values[code];
        code += 1;
    }
    values
};

/// FP4's codes in ascending order of their values; of the two zeros, code 0 comes first.
const FP4_ASCENDING: [u8; 16] = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3];

/// The midpoints of neighbouring values, rounded to f32: a number above midpoint `i` belongs to value
/// `i + 1` or a higher one.
const fn midpoints(ascending: &[f32; 16]) -> [f32; 15] {
    let mut thresholds = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        thresholds[i] = (ascending[i] + ascending[i + 1]) / 2.0;
        i += 1;
    }
    thresholds
}

const NF4_THRESHOLDS: [f32; 15] = midpoints(&NF4);

const FP4_THRESHOLDS: [f32; 15] = {
    let mut ascending = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        ascending[i] = FP4[FP4_ASCENDING[i] as usize];
        i += 1;
    }
    midpoints(&ascending)
};

impl QuantType {
    /// The value of each code, before it is multiplied by a block's absmax.
    pub const fn values(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }

    /// The thresholds between values: a number belongs to the value whose rank is the count of thresholds
    /// strictly below it.
    pub const fn thresholds(self) -> &'static [f32; 15] {
        match self {
            Self::Nf4 => &NF4_THRESHOLDS,
            Self::Fp4 => &FP4_THRESHOLDS,
        }
    }

    /// The code of each rank, ascending by value; `None` where codes are ranks.
    pub(super) const fn codes_by_rank(self) -> Option<&'static [u8; 16]> {
        match self {
            Self::Nf4 => None,
            Self::Fp4 => Some(&FP4_ASCENDING),
        }
    }

    /// The name that bitsandbytes has for the type: `nf4` or `fp4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }

    /// The type that bitsandbytes calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Nf4, Self::Fp4].into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// bitsandbytes `csrc/kernels.cu`, `dQuantizeNF4`.
    const KERNEL_THRESHOLDS: [f64; 15] = [
        -0.8480964004993439,
        -0.6106329262256622,
        -0.4599952697753906,
        -0.33967943489551544,
        -0.23460740596055984,
        -0.13791173323988914,
        -0.045525018125772476,
        0.03979014977812767,
        0.1202552504837513,
        0.2035212516784668,
        0.2920137718319893,
        0.3893125355243683,
        0.5016634166240692,
        0.6427869200706482,
        0.8614784181118011,
    ];

    #[test]
    fn thresholds_are_those_of_the_cuda_kernel() {
        assert_eq!(*QuantType::Nf4.thresholds(), KERNEL_THRESHOLDS.map(|value| value as f32));
    }

    #[test]
    fn fp4_is_ascending_by_rank() {
        let ascending = FP4_ASCENDING.map(|code| FP4[code as usize]);
        assert!(ascending.is_sorted());
        assert_eq!(FP4[3], 1.0);
        assert_eq!(FP4[11], -1.0);
        assert_eq!(FP4[8].to_bits(), 0, "the second zero is positive too");
    }
}
