//! The date, for the function `strftime_now` of templates.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use minijinja::{Error, ErrorKind};

/// Python's `datetime.now().strftime(format)`, in UTC.
///
/// The environment variable `SOURCE_DATE_EPOCH` (seconds since 1970) replaces the current time where it is
/// set, so that a run can be repeated on another day.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    strftime(format, fixed.unwrap_or_else(now))
}

/// Writes the time `seconds` after 1970 by `format`, whose directives are those that need no locale and
/// that chrono and Python understand alike.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let refused =
        |message: String| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {message}"));
    let time = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let time = time.ok_or_else(|| refused(format!("there is no date {seconds} seconds after 1970")))?;
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut directive = rest.next();
        let is_padded = directive != Some('-');
        if !is_padded {
            directive = rest.next();
        }
        let directive = match directive {
            Some(number @ ('Y' | 'y' | 'm' | 'd' | 'H' | 'I' | 'M' | 'S')) if !is_padded => {
                format!("%-{number}")
            }
            Some(
                known @ ('Y' | 'y' | 'm' | 'd' | 'H' | 'I' | 'M' | 'S' | 'p' | 'B' | 'b' | 'A' | 'a' | '%'),
            ) => {
                format!("%{known}")
            }
            other => {
                let directive = other.map_or(String::new(), String::from);
                return Err(refused(format!("%{directive} is not supported")));
            }
        };
        text.push_str(&time.format(&directive).to_string());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_as_python_writes_them() {
        // datetime.fromtimestamp(seconds, UTC).strftime(...)
        assert_eq!(strftime("%d %b %Y", 1_722_300_000).unwrap(), "30 Jul 2024");
        assert_eq!(strftime("%Y-%m-%d %H:%M:%S", 951_782_400).unwrap(), "2000-02-29 00:00:00");
        assert_eq!(
            strftime("%A, %B %-d, %I %p %y%%", 1_709_221_445).unwrap(),
            "Thursday, February 29, 03 PM 24%"
        );
        assert_eq!(strftime("%a %d", 0).unwrap(), "Thu 01");
        assert_eq!(strftime("%-H:%-M:%-S %-m/%-y %p", 1_709_262_000).unwrap(), "3:0:0 3/24 AM");
        for unsupported in ["%Q", "%", "%-", "%.3f", "%+"] {
            assert!(strftime(unsupported, 0).is_err(), "{unsupported}");
        }
        assert!(strftime("%Y", u64::MAX).is_err());
    }
}
