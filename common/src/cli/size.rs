//! Sizes in bytes, as people write and read them.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// A number of bytes. It is read as `5GB`, `1.5GiB`, `10M` or a plain number, and shown as `1.50 GiB`.
///
/// As in transformers, KB, MB, GB and TB are powers of 1000 and KiB, MiB, GiB and TiB powers of 1024; K,
/// M, G and T alone are powers of 1024 too, as in most tools of a shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Size(pub u64);

/// The size from which on [`Size::rounded_up`] counts in MiB.
const MANY_KIB: u64 = 10 << 20;

impl Size {
    /// The size in whole KiB or MiB, rounded up, so that a budget of that size suffices.
    pub fn rounded_up(self) -> String {
        match self.0 {
            ..MANY_KIB => format!("{} KiB", self.0.div_ceil(1 << 10)),
            _ => format!("{} MiB", self.0.div_ceil(1 << 20)),
        }
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 1,
            "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "K" | "KIB" => 1 << 10,
            "M" | "MIB" => 1 << 20,
            "G" | "GIB" => 1 << 30,
            "T" | "TIB" => 1 << 40,
            unit => {
                return Err(Error::usage(format!(
                    "unknown unit {unit} of a size, expected KB, MB, GB, KiB, MiB or GiB"
                )));
            }
        };
        match digits.trim_end().parse::<f64>() {
            Ok(count) if count * unit as f64 >= 1.0 && count * (unit as f64) < 1e18 => {
                Ok(Self((count * unit as f64) as u64))
            }
            _ => Err(Error::usage(format!("{text:?} is not a size such as 5GB or 500MiB"))),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        indicatif::BinaryBytes(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads() {
        for (text, bytes) in [
            ("5GB", 5_000_000_000),
            ("3MB", 3_000_000),
            ("1.5gib", 3 << 29),
            ("500K", 500 << 10),
            ("1.5m", 3 << 19),
            ("2 GiB", 2 << 30),
            ("4096", 4096),
            ("1", 1),
        ] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
        }
        for bad in ["", "GB", "-1GB", "0", "0.5", "5XB", "nanGB", "1e30GB", "1e999", "inf", "fast"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn writes() {
        assert_eq!(Size(1023).to_string(), "1023 B");
        assert_eq!(Size(1536).to_string(), "1.50 KiB");
        assert_eq!(Size(5_000_000_000).to_string(), "4.66 GiB");
        assert_eq!(Size((10 << 20) + 1).rounded_up(), "11 MiB");
        assert_eq!(Size((10 << 20) - 1).rounded_up(), "10240 KiB");
    }
}
