//! Checks that a delta-encoded page holds no more numbers than it has values.

use parquet::basic::Encoding;

use super::levels::number;

/// Checks the bytes of a page that has `values` values.
pub(super) fn check(encoding: Encoding, mut bytes: &[u8], values: usize) -> Result<(), String> {
    let lists = match encoding {
        Encoding::DELTA_BINARY_PACKED | Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        // Lengths of what is shared, then of what is not.
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => 0,
    };
    for _ in 0..lists {
        pass(&mut bytes, values).ok_or("differences that do not belong to its values")?;
    }
    Ok(())
}

/// Skips a list of at most `values` numbers.
fn pass(bytes: &mut &[u8], values: usize) -> Option<()> {
    let block = usize::try_from(number(bytes)?).ok().filter(|size| (1..=1 << 20).contains(size))?;
    let parts = usize::try_from(number(bytes)?).ok().filter(|parts| (1..=block).contains(parts))?;
    let count = usize::try_from(number(bytes)?).ok().filter(|count| *count <= values)?;
    number(bytes)?;
    let part = block / parts;
    let mut left = count.saturating_sub(1);
    while left > 0 {
        number(bytes)?;
        let (widths, rest) = bytes.split_at_checked(parts)?;
        *bytes = rest;
        for width in widths {
            if left == 0 {
                break;
            }
            *bytes = bytes.get(usize::from(*width) * part / 8..)?;
            left = left.saturating_sub(part);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_numbers_than_values_are_refused() {
        // Blocks of 128 in 4 parts, five numbers from 0 on: 1 more each, in no bits.
        let list = [128, 1, 4, 5, 0, 2, 0, 0, 0, 0];
        assert_eq!(check(Encoding::DELTA_BINARY_PACKED, &list, 5), Ok(()));
        assert!(check(Encoding::DELTA_BINARY_PACKED, &list, 4).is_err());
        assert!(check(Encoding::DELTA_BYTE_ARRAY, &list, 5).is_err(), "there is no second list");
        assert_eq!(check(Encoding::DELTA_BYTE_ARRAY, &[list, list].concat(), 5), Ok(()));
        let wide = [128, 1, 4, 5, 0, 2, 8, 0, 0, 0];
        assert!(check(Encoding::DELTA_LENGTH_BYTE_ARRAY, &wide, 5).is_err(), "32 bytes are missing");
        assert_eq!(check(Encoding::PLAIN, &[], 5), Ok(()));
    }
}
