//! Counts the elements of each row from the levels of a page, before its values are decoded.

/// Most elements of a column in one row.
pub(super) const ELEMENTS: usize = 1 << 20;

/// Counts the elements of rows, page by page.
pub(super) struct Records {
    /// The number of bits of a level.
    width: u32,
    /// The elements of the last row so far.
    last: usize,
}

impl Records {
    /// Begins to count in a column whose repetition levels are at most `most`.
    pub(super) fn new(most: i16) -> Self {
        Self { width: u16::BITS - most.unsigned_abs().leading_zeros(), last: 0 }
    }

    /// The elements of the longest row in a page of `values` values, whose levels are encoded as runs and
    /// packed bits. A level of 0 begins a row.
    pub(super) fn longest(&mut self, mut levels: &[u8], values: usize) -> Result<usize, String> {
        if self.width == 0 {
            return Ok(1);
        }
        let (mut left, mut longest) = (values, self.last);
        while left > 0 {
            let header = number(&mut levels).ok_or("levels that end early")?;
            let count = usize::try_from(header >> 1).unwrap_or(usize::MAX);
            if header & 1 == 0 {
                let width = self.width.div_ceil(8) as usize;
                let (level, rest) = levels.split_at_checked(width).ok_or("levels that end early")?;
                levels = rest;
                let run = count.min(left);
                match level.iter().all(|byte| *byte == 0) {
                    true if run > 0 => self.last = 1,
                    true => {}
                    false => self.last = self.last.saturating_add(run),
                }
                left -= run;
                longest = longest.max(self.last);
            } else {
                let packed = count.saturating_mul(self.width as usize).min(levels.len());
                let (bits, rest) = levels.split_at(packed);
                levels = rest;
                let run = count.saturating_mul(8).min(left).min(bits.len() * 8 / self.width as usize);
                for index in 0..run {
                    self.last = if level(bits, index, self.width) == 0 { 1 } else { self.last + 1 };
                    longest = longest.max(self.last);
                }
                left -= run;
                if run == 0 {
                    return Err("levels that end early".into());
                }
            }
            if longest > ELEMENTS {
                return Err(format!("a row of more than {ELEMENTS} elements"));
            }
        }
        Ok(longest)
    }
}

/// The level at `index` in packed bits, `width` bits each, least significant bit first.
fn level(bits: &[u8], index: usize, width: u32) -> u32 {
    let begin = index * width as usize;
    (0..width as usize).fold(0, |level, bit| {
        let at = begin + bit;
        level | u32::from(bits[at / 8] >> (at % 8) & 1) << bit
    })
}

/// Reads a number that is stored in groups of seven bits, the least significant first.
pub(super) fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_bits_are_counted_across_pages() {
        let mut records = Records::new(1);
        // A run of three 1 after a run of one 0; then eight bits: 1 1 0 1 1 1 1 0.
        assert_eq!(records.longest(&[2, 0, 6, 1, 3, 0b0111_1011], 12), Ok(6));
        assert_eq!(records.longest(&[8, 1], 4), Ok(5), "the last row continues");
        assert_eq!(Records::new(3).longest(&[3, 0b11_01_00_01, 0], 5), Ok(3));
    }

    #[test]
    fn a_row_without_an_end_is_refused() {
        let run = |count: u64| {
            let mut bytes = vec![2, 0];
            let mut header = count << 1;
            while header >= 0x80 {
                bytes.push(header as u8 | 0x80);
                header >>= 7;
            }
            bytes.extend([header as u8, 1]);
            bytes
        };
        let error = Records::new(1).longest(&run(1 << 31), 1 << 31).unwrap_err();
        assert!(error.contains("more than 1048576"), "{error}");
        assert!(Records::new(1).longest(&run(9), 11).unwrap_err().contains("end early"));
        assert!(Records::new(1).longest(&[3], 8).is_err());
    }
}
