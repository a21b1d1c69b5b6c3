//! Decodes token ids to text, one id at a time.
//!
//! A token may hold part of a character, and a decoder may treat the first token of a text unlike the
//! others. So the text of a new token is the difference between the texts of the last few tokens with and
//! without it, and is held back until its characters are complete.

use crate::Result;
use crate::text::Tokenizer;

/// Most replacement characters that stand for an unfinished character, which has at most four bytes.
const UNFINISHED: usize = 3;

/// The number of tokens after which bytes that form no character are shown as replacement characters.
const LONGEST_HELD: usize = 16;

/// Decodes a growing sequence of tokens into pieces of text that never split a character.
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The context, tokens whose text is complete, and the tokens after it.
    ids: Vec<u32>,
    /// The number of `ids` that are context.
    context: usize,
    /// The part of the text of `ids` that has been returned already.
    shown: String,
}

impl<'a> StreamDecoder<'a> {
    /// Begins a text. Special tokens are omitted from it.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), context: 0, shown: String::new() }
    }

    /// Adds a token, and returns the text that it completes, which is empty while a character is unfinished.
    pub fn push(&mut self, id: u32) -> Result<String> {
        // A token without text is no context: after it alone, some decoders drop the space of the next one.
        if self.tokenizer.is_omitted(id) {
            return Ok(String::new());
        }
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        let unfinished = unfinished(&text);
        if self.ids.len() - self.context < LONGEST_HELD {
            let whole = &text[..text.len() - unfinished];
            let Some(new) = whole.strip_prefix(&self.shown) else { return Ok(String::new()) };
            if unfinished > 0 {
                let new = new.to_owned();
                self.shown.push_str(&new);
                return Ok(new);
            }
        }
        let new = beyond(&self.shown, &text);
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        self.shown = self.tokenizer.decode(&self.ids)?;
        Ok(new)
    }

    /// Ends the text, and returns the rest of it, without a character that stays unfinished.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(beyond(&self.shown, &text[..text.len() - unfinished(&text)]))
    }
}

/// The number of bytes at the end of `text` that may stand for an unfinished character.
fn unfinished(text: &str) -> usize {
    let replacements = text.chars().rev().take(UNFINISHED).take_while(|&c| c == '\u{FFFD}');
    replacements.map(char::len_utf8).sum()
}

/// The part of `text` after its common beginning with `shown`.
fn beyond(shown: &str, text: &str) -> String {
    let same = |(shown, text): &(char, char)| shown == text;
    let shared: usize = shown.chars().zip(text.chars()).take_while(same).map(|(_, c)| c.len_utf8()).sum();
    text[shared..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::tests::byte_tokenizer;

    fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut decoder = StreamDecoder::new(tokenizer);
        let mut pieces: Vec<String> = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
        pieces.push(decoder.finish().unwrap());
        pieces
    }

    #[test]
    fn streaming_never_shows_half_a_character() {
        let tokenizer = byte_tokenizer();
        let ids = tokenizer.encode("né 汉😀").unwrap();
        assert_eq!(streamed(&tokenizer, &ids), ["n", "", "é", " ", "", "", "汉", "", "", "", "😀", ""]);
        assert_eq!(streamed(&tokenizer, &ids[..ids.len() - 1]).concat(), "né 汉", "also where it is cut off");
    }

    proptest::proptest! {
        #[test]
        fn streaming_loses_nothing(text in "\\PC{0,20}") {
            let tokenizer = byte_tokenizer();
            let ids = tokenizer.encode_data(&text).unwrap();
            // A replacement character at the end cannot be told from a character that is cut off.
            let whole = |text: &str| text.trim_end_matches('\u{FFFD}').to_owned();
            proptest::prop_assert_eq!(whole(&streamed(&tokenizer, &ids).concat()), whole(&text));
        }

        #[test]
        fn streaming_any_bytes_ends_and_goes_on(ids in proptest::collection::vec(0u32..256, 0..30)) {
            let tokenizer = byte_tokenizer();
            let tail = tokenizer.encode(" the end").unwrap();
            let all = [ids, tail].concat();
            proptest::prop_assert!(streamed(&tokenizer, &all).concat().ends_with(" the end"));
        }
    }
}
