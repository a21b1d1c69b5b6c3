//! Numbers of bytes, as people write and read them.

use common::{Error, Result};

const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// `1536` is `1.5 KiB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// What a run has to fetch, and what an earlier one has left for it.
pub fn how_much(total: u64, there: u64) -> String {
    match there {
        0 => bytes(total),
        _ => format!("{}; {} are there, {} to fetch", bytes(total), bytes(there), bytes(total - there)),
    }
}

/// `500K`, `10M`, `1.5G` or a plain number; K, M and G are powers of 1024.
pub fn parse(text: &str) -> Result<u64> {
    let upper = text.trim().to_ascii_uppercase();
    let upper = upper.trim_end_matches("IB").trim_end_matches('B');
    let (digits, factor) = match upper.chars().last() {
        Some('K') => (&upper[..upper.len() - 1], 1_u64 << 10),
        Some('M') => (&upper[..upper.len() - 1], 1 << 20),
        Some('G') => (&upper[..upper.len() - 1], 1 << 30),
        _ => (upper, 1),
    };
    match digits.parse::<f64>() {
        Ok(number) if number.is_finite() && number * factor as f64 >= 1.0 => {
            Ok((number * factor as f64) as u64)
        }
        _ => Err(Error::usage(format!("{text:?} is not a number of bytes")).hint("write 500K, 10M or 1.5G")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn says_what_is_left() {
        assert_eq!(how_much(3 << 20, 0), "3.0 MiB");
        assert_eq!(how_much(3 << 20, 1 << 20), "3.0 MiB; 1.0 MiB are there, 2.0 MiB to fetch");
    }

    #[test]
    fn reads() {
        for (text, expected) in
            [("1", 1), ("500K", 512_000), ("1.5m", 1_572_864), ("2GiB", 2 << 30), ("3MB", 3 << 20)]
        {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        for text in ["", "fast", "-1", "0", "1e999", "K", "nan"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
