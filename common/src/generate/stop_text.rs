//! Ends an answer at a text, where a chat template ends answers with a text that is no token.

/// Passes on the text of an answer as it grows, up to the text that ends it.
#[derive(Debug, Default)]
pub struct StopText<'a> {
    text: Option<&'a str>,
    /// The end of the answer so far, where it may be the beginning of `text`.
    held: String,
    found: bool,
}

impl<'a> StopText<'a> {
    /// Begins an answer that ends at `text`, or at no text.
    pub fn new(text: Option<&'a str>) -> Self {
        Self { text, ..Self::default() }
    }

    /// Adds a piece to the answer, and returns what of the answer can be shown now.
    pub fn push(&mut self, piece: &str) -> String {
        let Some(text) = self.text else { return piece.to_owned() };
        if self.found {
            return String::new();
        }
        self.held.push_str(piece);
        if let Some(at) = self.held.find(text) {
            self.found = true;
            return std::mem::take(&mut self.held)[..at].to_owned();
        }
        let begins = |at: usize| text.starts_with(&self.held[at..]);
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
        let mut stop = StopText::new(Some("<|eot|>"));
        let pieces = ["a <", "b <|e", "ot", "|> more", "!"];
        assert_eq!(pieces.map(|piece| stop.push(piece)), ["a ", "<b ", "", "", ""]);
        assert!(stop.is_found() && stop.finish().is_empty());
        let mut stop = StopText::new(Some("<|eot|>"));
        assert_eq!((stop.push("x <|e"), stop.finish(), stop.is_found()), ("x ".into(), "<|e".into(), false));
        assert_eq!(StopText::new(None).push("<|eot|>"), "<|eot|>");
    }
}
