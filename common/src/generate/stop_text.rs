//! Ends an answer at a text: one that a chat template ends answers with and that is no token, or one that the
//! caller names.

/// Passes on the text of an answer as it grows, up to the first text that ends it.
#[derive(Debug, Default)]
pub struct StopText {
    texts: Vec<String>,
    /// The end of the answer so far, where it may be the beginning of one of `texts`.
    held: String,
    found: bool,
}

impl StopText {
    /// Begins an answer that ends where the first of `texts` is complete; with none of them, at no text.
    pub fn new(texts: Vec<String>) -> Self {
        Self { texts, ..Self::default() }
    }

    /// Adds a piece to the answer, and returns what of the answer can be shown now.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held.push_str(piece);
        // Of texts that are complete in the same piece, the one that ends first would have ended the answer.
        let complete =
            self.texts.iter().filter_map(|text| self.held.find(text).map(|at| (at + text.len(), at)));
        if let Some((_, at)) = complete.min() {
            self.found = true;
            return std::mem::take(&mut self.held)[..at].to_owned();
        }
        let begins = |at: usize| self.texts.iter().any(|text| text.starts_with(&self.held[at..]));
        let kept = self.held.char_indices().map(|(at, _)| at).find(|&at| begins(at));
        let kept = self.held.split_off(kept.unwrap_or(self.held.len()));
        std::mem::replace(&mut self.held, kept)
    }

    /// Returns whether the text that ends the answer was found.
    pub fn is_found(&self) -> bool {
        self.found
    }

    /// Returns what was held back, when the answer has ended without the text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_at_its_text_and_shows_nothing_of_it() {
        let stop_at = |texts: &[&str]| StopText::new(texts.iter().map(|&text| text.to_owned()).collect());
        let mut stop = stop_at(&["<|eot|>"]);
        let pieces = ["a <", "b <|e", "ot", "|> more", "!"];
        assert_eq!(pieces.map(|piece| stop.push(piece)), ["a ", "<b ", "", "", ""]);
        assert!(stop.is_found() && stop.finish().is_empty());
        let mut stop = stop_at(&["<|eot|>"]);
        assert_eq!((stop.push("x <|e"), stop.finish(), stop.is_found()), ("x ".into(), "<|e".into(), false));
        assert_eq!(stop_at(&[]).push("<|eot|>"), "<|eot|>");
        let mut stop = stop_at(&["abcd", "c", "bcx"]);
        assert_eq!((stop.push("xab"), stop.push("bcd"), stop.is_found()), ("x".into(), "abb".into(), true));
    }
}
