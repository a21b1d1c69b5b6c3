//! Sizes on the command line.

/// Bytes from `5GB`, `500MB` or a number; as in transformers, a GB is 10⁹ bytes and a GiB 2³⁰.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        unit => return Err(format!("unknown unit {unit}, expected KB, MB, GB, KiB, MiB or GiB")),
    };
    match digits.parse::<f64>() {
        Ok(count) if count > 0.0 && count * (unit as f64) < 1e18 => Ok((count * unit as f64) as u64),
        _ => Err("expected a size such as 5GB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("5GB"), Ok(5_000_000_000));
        assert_eq!(size("1.5gib"), Ok(3 << 29));
        assert_eq!(size("4096"), Ok(4096));
        for bad in ["", "GB", "-1GB", "0", "5XB", "nanGB", "1e30GB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
