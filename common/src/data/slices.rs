//! Selects rows of splits: `train`, `train[:100]`, `train[10%:20%]+validation`, as the datasets library
//! reads its `split`.

use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::{Error, Result, bail, error};

/// The text that stands for all splits.
pub const ALL: &str = "all";

/// Most slices of a sum.
const MOST: usize = 1000;

/// A selection of the rows of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The name of the split.
    pub split: String,
    from: Option<i64>,
    to: Option<i64>,
    unit: Unit,
}

/// The unit of the bounds of a slice. Negative bounds count from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Rows,
    /// Hundredths of the split, each bound rounded to the nearest row.
    Percent,
    /// Multiples of a hundredth of the split, which is rounded down to whole rows.
    WholePercent,
}

impl Slice {
    /// The slice of all rows of a split.
    pub fn all_of(split: impl Into<String>) -> Self {
        Self { split: split.into(), from: None, to: None, unit: Unit::Rows }
    }

    /// Parses a text into slices, which are read one after the other.
    pub fn parse(text: &str) -> Result<Vec<Self>> {
        if text.split('+').count() > MOST {
            return Err(error!("split: a sum of at most {MOST} parts expected").hint("name the whole split"));
        }
        text.split('+').map(|part| Self::parse_one(part.trim())).collect()
    }

    fn parse_one(text: &str) -> Result<Self> {
        static SLICE: LazyLock<Regex> = LazyLock::new(|| {
            let bound = |name: &str| format!(r"(?:(?P<{name}>-?[\d_]+)(?P<{name}_percent>%)?)?");
            let (from, to) = (bound("from"), bound("to"));
            let pattern =
                format!(r"^(?P<split>\w+(?:\.\w+)*)(?:\[{from}:{to}\])?(?:\((?P<rounding>[^)]*)\))?$");
            #[expect(clippy::unwrap_used, reason = "a constant, which a test reads")]
            Regex::new(&pattern).unwrap()
        });
        let problem = |expected: &str| {
            error!("split: {expected} expected, found {text:?}")
                .hint("a split is train, train[:100], train[10%:20%] or a sum as train+validation")
        };
        let Some(found) = SLICE.captures(text) else { return Err(problem("a split and its rows")) };
        let in_percent = found.name("from_percent").or(found.name("to_percent")).is_some();
        let unit = match (found.name("rounding").map(|name| name.as_str()), in_percent) {
            (None, false) => Unit::Rows,
            (None | Some("closest"), true) => Unit::Percent,
            (Some("pct1_dropremainder"), true) => Unit::WholePercent,
            (Some(_), _) => return Err(problem("(closest) or (pct1_dropremainder) behind percents")),
        };
        let bound = |name: &str| -> Result<Option<i64>> {
            let Some(bound) = found.name(name) else { return Ok(None) };
            let number: String = bound.as_str().chars().filter(|&c| c != '_').collect();
            if number.trim_start_matches('-').is_empty() {
                return Err(problem("a number of rows"));
            }
            // What has more digits is beyond any split.
            let beyond = if number.starts_with('-') { i64::MIN + 1 } else { i64::MAX };
            let number = number.parse().unwrap_or(beyond);
            if in_percent && !(-100..=100).contains(&number) {
                return Err(problem("percents from -100 to 100"));
            }
            Ok(Some(number))
        };
        Ok(Self { split: found["split"].to_owned(), from: bound("from")?, to: bound("to")?, unit })
    }

    /// Whether the slice has bounds.
    pub fn is_bounded(&self) -> bool {
        self.from.or(self.to).is_some()
    }

    /// Whether the rows of the slice depend on the number of rows in the split.
    pub fn needs_count(&self) -> bool {
        let bounds = || [self.from, self.to].into_iter().flatten();
        match self.unit {
            Unit::Rows => bounds().any(|bound| bound < 0),
            Unit::Percent | Unit::WholePercent => bounds().next().is_some(),
        }
    }

    /// The range of rows, from 0, in a split of `count` rows.
    pub fn range(&self, count: usize) -> Result<Range<usize>> {
        let rows = i64::try_from(count).unwrap_or(i64::MAX);
        if self.unit == Unit::WholePercent && rows < 100 {
            bail!(Row, "{self}: a split of at least 100 rows expected, found {rows}");
        }
        let in_rows = |bound: i64| match self.unit {
            Unit::Rows => bound,
            Unit::Percent => (bound as f64 * rows as f64 / 100.0).round_ties_even() as i64,
            Unit::WholePercent => bound.saturating_mul(rows / 100),
        };
        let within = |bound: i64| match bound {
            0.. => bound.min(rows),
            _ => rows.saturating_add(bound).max(0),
        };
        let [from, to] = [(self.from, 0), (self.to, rows)]
            .map(|(bound, default)| within(bound.map_or(default, in_rows)))
            .map(|bound| usize::try_from(bound).unwrap_or(0));
        Ok(from..to.max(from))
    }

    /// The error of a slice that holds no row.
    pub fn no_rows(&self) -> Error {
        error!("split: {self} has no rows").hint("name more of the split, or all of it without [ ]")
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.split)?;
        if self.is_bounded() {
            let percent = if self.unit == Unit::Rows { "" } else { "%" };
            let [from, to] = [self.from, self.to]
                .map(|bound| bound.map_or_else(String::new, |bound| format!("{bound}{percent}")));
            write!(f, "[{from}:{to}]")?;
        }
        match self.unit {
            Unit::WholePercent => f.write_str("(pct1_dropremainder)"),
            Unit::Rows | Unit::Percent => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranges are those of datasets 5.2 (`ReadInstruction.to_absolute`).
    #[test]
    fn rows_are_those_of_the_datasets_library() {
        for (text, count, expected) in [
            ("train", 5, 0..5),
            ("train[:2]", 5, 0..2),
            ("train[3:]", 5, 3..5),
            ("train[:99]", 5, 0..5),
            ("train[7:9]", 5, 5..5),
            ("train[3:1]", 5, 3..3),
            ("train[-2:]", 5, 3..5),
            ("train[:-1]", 5, 0..4),
            ("train[-99:-1]", 5, 0..4),
            ("train[:]", 5, 0..5),
            ("train[1_0:2_0]", 30, 10..20),
            ("train[:123456789012345678901234567890]", 5, 0..5),
            ("train[10%:60%]", 5, 0..3),
            ("train[10%:20%]", 25, 2..5),
            ("train[:50%]", 5, 0..2),
            ("train[:50]", 5, 0..5),
            ("train[50%:]", 7, 4..7),
            ("train[-10%:]", 25, 23..25),
            ("train[10%:20]", 100, 10..20),
            ("train[:10%](closest)", 25, 0..2),
            ("train[:33%](pct1_dropremainder)", 250, 0..66),
            ("train.part_1[:1]", 5, 0..1),
        ] {
            let slices = Slice::parse(text).unwrap();
            assert_eq!(slices.len(), 1, "{text}");
            assert_eq!(slices[0].range(count).unwrap(), expected, "{text} of {count}");
        }
        assert!(Slice::parse("train[:1%](pct1_dropremainder)").unwrap()[0].range(99).is_err());
    }

    #[test]
    fn a_sum_is_read_part_by_part() {
        let slices = Slice::parse("train[:2] + validation+test[50%:]").unwrap();
        let shown: Vec<String> = slices.iter().map(Slice::to_string).collect();
        assert_eq!(shown, ["train[:2]", "validation", "test[50%:]"]);
        let needed: Vec<bool> = slices.iter().map(Slice::needs_count).collect();
        assert_eq!(needed, [false, false, true]);
        assert!(Slice::parse("train[-1:]").unwrap()[0].needs_count());
    }

    #[test]
    fn what_the_library_does_not_read_is_refused() {
        for text in [
            "",
            "+",
            "train+",
            "train[2]",
            "train[:2][:1]",
            "train [:2]",
            "train[a:]",
            "train[:2",
            "tr-ain",
            "train[:101%]",
            "train[_:]",
            "train[:2](closest)",
            "train[:2%](up)",
            "train[1.5%:]",
        ] {
            let error = Slice::parse(text).unwrap_err();
            assert!(
                error.to_string().starts_with("split: ") && error.hint_text().is_some(),
                "{text}: {error}"
            );
        }
    }
}
