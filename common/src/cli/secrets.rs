//! Tokens and passwords, which are never shown.
//!
//! A server may send a token back in an error, a redirect or the name of a file, in any encoding of the
//! web. A tool names its secrets once ([`keep_secret`]); from then on every message hides them, and text
//! that is written for other people passes [`hide_secrets`].

use std::sync::{PoisonError, RwLock};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE, Engine};

/// The text that a message has in place of a secret.
const HIDDEN: &str = "***";
/// Shorter secrets are not searched for, because they are too common; those in addresses are hidden
/// nevertheless.
const SHORTEST: usize = 3;

static SECRETS: RwLock<Secrets> = RwLock::new(Secrets { forms: Vec::new() });

/// Texts to hide.
#[derive(Debug, Default)]
struct Secrets {
    /// The secrets as they are, and in base64 at each of the three possible offsets.
    forms: Vec<String>,
}

/// Hides `secret` in every message from now on: as it is, percent-encoded, or in base64.
pub fn keep_secret(secret: &str) {
    SECRETS.write().unwrap_or_else(PoisonError::into_inner).add(secret);
}

/// `text` without the secrets, and without the passwords of addresses.
pub fn hide_secrets(text: &str) -> String {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    hide_in_addresses(&secrets.hide(text))
}

impl Secrets {
    fn add(&mut self, secret: &str) {
        if secret.len() < SHORTEST {
            return;
        }
        self.forms.push(secret.to_owned());
        for engine in [&BASE64_STANDARD, &BASE64_URL_SAFE] {
            self.forms.extend((0..3).filter_map(|offset| base64_within(secret.as_bytes(), offset, engine)));
        }
        // The longer first, so that no rest of it is left.
        self.forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        self.forms.dedup();
    }

    fn hide(&self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let longest = self.forms.iter().filter_map(|form| length_at(rest.as_bytes(), form)).max();
            match longest {
                Some(length) if rest.is_char_boundary(length) => {
                    shown.push_str(HIDDEN);
                    rest = &rest[length..];
                }
                _ => {
                    shown.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        shown
    }
}

/// The number of bytes that `secret` takes at the beginning of `text`, where each of its bytes may be
/// percent-encoded once or several times and case does not matter. `None` where it is not there.
fn length_at(text: &[u8], secret: &str) -> Option<usize> {
    let mut at = 0;
    for byte in secret.bytes() {
        let (found, length) = decode(text.get(at..)?)?;
        let plain = text[at];
        at += match byte {
            _ if found.eq_ignore_ascii_case(&byte) => length,
            _ if plain.eq_ignore_ascii_case(&byte) => 1,
            _ => return None,
        };
    }
    Some(at)
}

/// The first byte of `text`, percent-decoded as often as it was encoded, and the length of its encoding.
fn decode(text: &[u8]) -> Option<(u8, usize)> {
    let first = *text.first()?;
    // `%41`, and `%2541` where that was encoded again.
    let mut digits = 1;
    while first == b'%' && text.get(digits..digits + 2) == Some(b"25") {
        digits += 2;
    }
    let hex = |at: usize| char::from(*text.get(at)?).to_digit(16);
    match (first, hex(digits), hex(digits + 1)) {
        (b'%', Some(high), Some(low)) => Some(((high * 16 + low) as u8, digits + 2)),
        // An escape of Rust and of JSON.
        (b'\\', ..) if matches!(text.get(1), Some(b'"' | b'\\' | b'\'')) => Some((text[1], 2)),
        _ => Some((first, 1)),
    }
}

/// The characters of base64 that depend on `secret` alone where it begins `offset` bytes into a group of
/// three; `None` where too few do.
fn base64_within(secret: &[u8], offset: usize, engine: &impl Engine) -> Option<String> {
    let bytes: Vec<u8> = std::iter::repeat_n(0, offset).chain(secret.iter().copied()).collect();
    let digits = (offset * 8).div_ceil(6)..bytes.len() * 8 / 6;
    let text = engine.encode(bytes);
    text.get(digits).filter(|text| text.len() > SHORTEST).map(str::to_owned)
}

/// Hides what stands before the `@` of addresses: `https://user:password@host`.
fn hide_in_addresses(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/?#\"'<>".contains(c)).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                shown.push_str(HIDDEN);
                &after[at..]
            }
            None => after,
        };
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(texts: &[&str]) -> Secrets {
        let mut secrets = Secrets::default();
        texts.iter().for_each(|text| secrets.add(text));
        secrets
    }

    #[test]
    fn a_secret_is_hidden_in_every_form() {
        let secrets = secrets(&["hf_Secret+1/x"]);
        for form in [
            "hf_Secret+1/x",
            "HF_SECRET+1/X",
            "hf%5FSecret%2b1%2Fx",
            "%68%66_Secret%252B1%25252fx",
            // base64 of the text itself, and after one and two other bytes.
            "aGZfU2VjcmV0KzEve",
            "hmX1NlY3JldCsxL3",
            "oZl9TZWNyZXQrMS94",
        ] {
            let shown = secrets.hide(&format!("ä a{form}ü"));
            assert!(shown.starts_with("ä a") && shown.contains("***") && shown.ends_with('ü'), "{shown}");
            assert!(shown.len() < 12, "{form}: {shown}");
        }
        assert_eq!(secrets.hide("hf_Secret"), "hf_Secret");
        assert_eq!(secrets.hide("100%"), "100%");
    }

    #[test]
    fn what_is_too_short_hides_nothing() {
        assert_eq!(secrets(&["", "a"]).hide("a banana"), "a banana");
    }

    #[test]
    fn addresses_lose_their_passwords() {
        for (text, shown) in [
            ("https://user:pw@host/a@b", "https://***@host/a@b"),
            ("\"http://u:p@x:1\" and ftp://a:b@c@d", "\"http://***@x:1\" and ftp://***@d"),
            ("https://host/a b@c", "https://host/a b@c"),
            ("no address: a@b", "no address: a@b"),
        ] {
            assert_eq!(hide_in_addresses(text), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_no_secret_is_left(text in "\\PC*", secret in "[a-zA-Z0-9_]{4,20}") {
            let shown = secrets(&[&secret]).hide(&format!("{text}{secret}{text}"));
            proptest::prop_assert!(!shown.contains(&secret));
            hide_in_addresses(&text);
        }
    }
}
