//! The texts of special tokens, and where they stand in a text.

use std::collections::HashSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::{Error, Result, bail};

/// Most special tokens of a tokenizer.
const SPECIAL_TOKENS: usize = 1 << 15;

/// The texts of a tokenizer's special tokens, found in a text in one pass. Gemma 3 has thousands of them.
pub(crate) struct Specials {
    contents: HashSet<String>,
    search: AhoCorasick,
}

impl Specials {
    /// The special tokens with these texts. Empty texts are dropped.
    pub(crate) fn new(contents: impl IntoIterator<Item = String>) -> Result<Self> {
        let contents: HashSet<String> = contents.into_iter().filter(|content| !content.is_empty()).collect();
        if contents.len() > SPECIAL_TOKENS {
            bail!(TooLarge, "{} special tokens, expected at most {SPECIAL_TOKENS}", contents.len());
        }
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&contents);
        Ok(Self { search: search.map_err(Error::malformed)?, contents })
    }

    /// The texts of all special tokens, in no order.
    pub(super) fn contents(&self) -> impl Iterator<Item = &String> {
        self.contents.iter()
    }

    /// Whether `text` is the text of a special token.
    pub(super) fn contains(&self, text: &str) -> bool {
        self.contents.contains(text)
    }

    /// The byte ranges of special tokens in `text`, ascending. The first one counts where two overlap, and of
    /// those that begin together the longest.
    pub(crate) fn find(&self, text: &str) -> Vec<Range<usize>> {
        self.search.find_iter(text).map(|found| found.range()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Specials;

    #[test]
    fn the_longest_of_those_that_begin_first_is_found() {
        let specials = Specials::new(["<s>", "<s><s>", "s>!", ""].map(String::from)).unwrap();
        assert_eq!(specials.find("a<s><s>!<s>!"), [1..7, 8..11]);
        assert!(specials.contains("<s>") && !specials.contains(""));
        let many = (0..40_000).map(|index| format!("<{index}>"));
        assert!(Specials::new(many).err().unwrap().to_string().contains("40000 special tokens"));
    }
}
