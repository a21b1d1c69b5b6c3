//! Searches the regular expressions of a tokenizer within bounds.
//!
//! The expressions are Oniguruma's, which backtracks, so that some take exponential time. The tokenizers
//! library has no suitable bound on them, and panics where Oniguruma gives up.

use onig::{MatchParam, Regex, Region, SearchOptions};
use serde::Deserialize;
use tokenizers::tokenizer::pattern::Pattern;
use tokenizers::{Offsets, Result};

use super::guard::check_time;
use crate::panics::stop;

/// Most backtracking steps of a match in a search of the whole text, which cannot be interrupted.
const STEPS_OF_SEARCH: usize = 1000;
/// Most backtracking steps of a match at one position, for any text.
const STEPS: usize = 1_000_000;
/// Further steps of a match for each byte of the text, since a good expression may pass a long run twice.
const STEPS_PER_BYTE: usize = 16;

/// The pattern of a `Split` or `Replace` step, as the file has it.
#[derive(Deserialize)]
pub enum Sought {
    /// A text that is searched for.
    String(String),
    /// A regular expression that is searched for.
    Regex(String),
}

/// A pattern that can be searched for within bounds.
pub enum Bounded {
    /// A text that is searched for.
    Text(String),
    /// A compiled regular expression.
    Expression(Regex),
}

impl Bounded {
    /// Compiles a pattern.
    pub fn new(sought: Sought) -> Result<Self> {
        Ok(match sought {
            Sought::String(text) => Self::Text(text),
            Sought::Regex(pattern) => Self::Expression(Regex::new(&pattern)?),
        })
    }

    /// The first match at or after `from`.
    fn search(&self, text: &str, from: usize, region: &mut Region) -> Option<Offsets> {
        match self {
            Self::Text(sought) => text[from..].find(sought).map(|at| (from + at, from + at + sought.len())),
            Self::Expression(regex) => search(regex, text, from, region),
        }
    }
}

/// The first match at or after `from`. Where it takes too many steps, the work is stopped, because the
/// next text would take as many.
fn search(regex: &Regex, text: &str, from: usize, region: &mut Region) -> Option<Offsets> {
    let options = SearchOptions::SEARCH_OPTION_NONE;
    region.clear();
    let quick =
        regex.search_with_param(text, from, text.len(), options, Some(region), bound(STEPS_OF_SEARCH));
    if let Ok(found) = quick {
        return found.and_then(|_| region.pos(0));
    }
    let steps = STEPS.saturating_add(text.len().saturating_mul(STEPS_PER_BYTE));
    let places = text[from..].char_indices().map(|(at, _)| from + at).chain([text.len()]);
    for place in places {
        region.clear();
        match regex.match_with_param(text, place, options, Some(region), bound(steps)) {
            Ok(Some(length)) => return Some((place, place + length)),
            Ok(None) => {}
            Err(problem) => stop(format!("one of its regular expressions: {}", problem.description())),
        }
        check_time();
    }
    None
}

fn bound(steps: usize) -> MatchParam {
    let mut bound = MatchParam::default();
    bound.set_retry_limit_in_match(u32::try_from(steps).unwrap_or(u32::MAX));
    bound
}

/// Cuts a text into matches and the texts between them, as the library does.
impl Pattern for &Bounded {
    fn find_matches(&self, text: &str) -> Result<Vec<(Offsets, bool)>> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut region = Region::new();
        let mut pieces = Vec::new();
        let (mut from, mut after_last) = (0, None);
        let mut covered = 0;
        while from <= text.len() {
            let Some((start, end)) = self.search(text, from, &mut region) else { break };
            if start == end && after_last == Some(end) {
                // An empty match right after the last one does not count.
                from += text[from..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            from = end;
            after_last = Some(end);
            if covered != start {
                pieces.push(((covered, start), false));
            }
            pieces.push(((start, end), true));
            covered = end;
            if pieces.len() % 64 < 2 {
                check_time();
            }
        }
        if covered != text.len() {
            pieces.push(((covered, text.len()), false));
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::utils::SysRegex;

    use super::*;
    use crate::panics::caught;

    #[test]
    fn texts_are_cut_as_the_library_cuts_them() {
        let texts =
            ["a  b1234\n\n c", " ", "", "ab", "äöü 12 ß", &"word and 1 ".repeat(40), &"é".repeat(3000)];
        for sought in ["a", " ", "é", "  ", ""] {
            let ours = Bounded::new(Sought::String(sought.into())).unwrap();
            let theirs = SysRegex::new(&regex::escape(sought)).unwrap();
            for text in texts {
                let expected = (&theirs).find_matches(text).unwrap();
                assert_eq!((&ours).find_matches(text).unwrap(), expected, "{sought:?} in {text:?}");
            }
        }
        for pattern in
            [r"\s+(?!\S)|\s+", r"\d{1,3}", r"x*", r"", r"$", r"(?=b)", r"[^\s]+", r"é{2}", "(a)|b", "(x|é)*é"]
        {
            let ours = Bounded::new(Sought::Regex(pattern.into())).unwrap();
            let theirs = SysRegex::new(pattern).unwrap();
            for text in texts {
                let expected = (&theirs).find_matches(text).unwrap();
                assert_eq!((&ours).find_matches(text).unwrap(), expected, "{pattern:?} in {text:?}");
            }
        }
    }

    #[test]
    fn a_catastrophe_is_an_error() {
        let pattern = Bounded::new(Sought::Regex("(x+x+)+y".into())).unwrap();
        let error = caught(|| (&pattern).find_matches(&"x".repeat(64)).unwrap()).unwrap_err();
        assert!(error.contains("retry-limit"), "{error}");
    }
}
