//! Follows the nesting of JSON text, to find the ends of values without parsing them.

/// The lists, objects and texts that are open at a position of JSON text.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    depth: usize,
    in_text: bool,
    /// Whether the next character of the text is escaped.
    is_escaped: bool,
}

impl Nesting {
    /// Advances to a byte outside of all lists, objects and texts that `ends` the value, and returns the
    /// number of bytes before it: all of them where there is no such byte.
    pub(super) fn advance(&mut self, bytes: &[u8], ends: impl Fn(u8) -> bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.in_text {
                at = self.advance_text(bytes, at);
                continue;
            }
            match bytes[at] {
                byte if self.depth == 0 && ends(byte) => return at,
                b'"' => self.in_text = true,
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            at += 1;
        }
        bytes.len()
    }

    /// Whether a list or an object is open and no text is, so that a line may end within the value. Texts
    /// cannot continue in the next line.
    pub(super) fn is_inside(&self) -> bool {
        self.depth > 0 && !self.in_text
    }

    /// Advances in a text from `at`, and returns the new position.
    fn advance_text(&mut self, bytes: &[u8], at: usize) -> usize {
        if self.is_escaped {
            self.is_escaped = false;
            return at + 1;
        }
        let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at..]) else { return bytes.len() };
        match bytes[at + found] {
            b'"' => self.in_text = false,
            _ => self.is_escaped = true,
        }
        at + found + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_where_all_is_closed_however_it_arrives() {
        let text = b"{\"a]\\\"\": [1, {\"b\": \"}\\\\\"}], \"c\": 2} , next";
        let expected = text.len() - ", next".len();
        for cut in 0..text.len() {
            let mut nesting = Nesting::default();
            let first = nesting.advance(&text[..cut], |byte| byte == b',');
            let length = match first < cut {
                true => first,
                false => cut + nesting.advance(&text[cut..], |byte| byte == b','),
            };
            assert_eq!(length, expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_open_text_is_not_inside() {
        for (text, expected) in
            [("{\"a\": ", true), ("{\"a", false), ("{}", false), ("]]}", false), ("[{", true)]
        {
            let mut nesting = Nesting::default();
            nesting.advance(text.as_bytes(), |_| false);
            assert_eq!(nesting.is_inside(), expected, "{text}");
        }
    }
}
