//! Foreign text on a terminal, and in commands that people paste.
//!
//! Names of files and tensors, keys, and texts of servers and templates may have been chosen by anyone.
//! Messages show control characters in them as escapes, so that they cannot move the cursor, set a
//! title or forge a line. [`super::note`] and the functions beside it escape every message.

use std::fmt::{self, Write};
use std::io;
use std::path::Path;

/// Most characters of one message that are shown; the others are only counted.
const LONGEST: usize = 4096;

/// `text` on one line: control characters and those that reorder or hide text are shown as escapes, and
/// all characters after the first 4,096 are left out.
pub fn one_line(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let mut shown = String::with_capacity(text.len());
    for (index, character) in text.chars().enumerate() {
        if index == LONGEST {
            let _ = write!(shown, "… ({} more characters)", text.chars().count() - LONGEST);
            break;
        }
        push_escaped(&mut shown, character);
    }
    shown
}

/// `text` with its lines and tabs as they are, and all other control characters shown as escapes.
pub(super) fn lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => shown.push(character),
            _ => push_escaped(&mut shown, character),
        }
    }
    shown
}

/// Whether a terminal would act on this character instead of showing it, or would show the text around it
/// in another order.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{feff}')
        || ('\u{2028}'..='\u{202e}').contains(&character)
        || ('\u{2060}'..='\u{206f}').contains(&character)
}

fn push_escaped(shown: &mut String, character: char) {
    match character {
        '\n' => shown.push_str("\\n"),
        '\r' => shown.push_str("\\r"),
        '\t' => shown.push_str("\\t"),
        _ if is_obeyed(character) => {
            let _ = match u32::from(character) {
                code @ ..0x100 => write!(shown, "\\x{code:02x}"),
                code => write!(shown, "\\u{{{code:x}}}"),
            };
        }
        _ => shown.push(character),
    }
}

/// A word of a command as a POSIX shell takes it: quoted where it holds anything that a shell would
/// interpret. `$(id).json` becomes `'$(id).json'`.
pub fn quoted(word: impl fmt::Display) -> String {
    let word = word.to_string();
    // A NUL cannot be in an argument at all; it is shown instead of passed.
    shlex::try_quote(&word).map_or_else(|_| one_line(&word), |word| word.into_owned())
}

/// A path as a word of a command, quoted as [`quoted`] does.
pub fn quoted_path(path: &Path) -> String {
    // A path that begins with a dash would be read as an option.
    match path.as_os_str().as_encoded_bytes().first() {
        Some(b'-') => quoted(Path::new(".").join(path).display()),
        _ => quoted(path.display()),
    }
}

/// Writes text whose control characters, but for line ends and tabs, are shown as escapes; for
/// answers that are streamed to a terminal. A sequence of bytes that is not UTF-8 is shown as �.
pub(super) struct Escaping<W> {
    inner: W,
    /// The first bytes of a character whose other bytes have not been written yet.
    partial: Vec<u8>,
}

impl<W: io::Write> Escaping<W> {
    /// Writes to `inner`.
    pub(super) fn new(inner: W) -> Self {
        Self { inner, partial: Vec::new() }
    }
}

impl<W: io::Write> io::Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.extend_from_slice(bytes);
        let mut whole = 0;
        while whole < self.partial.len() {
            match std::str::from_utf8(&self.partial[whole..]) {
                Ok(text) => {
                    self.inner.write_all(lines(text).as_bytes())?;
                    whole = self.partial.len();
                }
                Err(error) => {
                    let valid = whole + error.valid_up_to();
                    let text = String::from_utf8_lossy(&self.partial[whole..valid]);
                    self.inner.write_all(lines(&text).as_bytes())?;
                    whole = valid;
                    let Some(invalid) = error.error_len() else { break };
                    self.inner.write_all("\u{fffd}".as_bytes())?;
                    whole += invalid;
                }
            }
        }
        self.partial.drain(..whole);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(one_line("x\u{1b}[31m\nhint: rm"), "x\\x1b[31m\\nhint: rm");
        assert_eq!(one_line("a\u{9b}2J\u{7}\u{202e}\r\tä日"), "a\\x9b2J\\x07\\u{202e}\\r\\tä日");
        assert_eq!(lines("a\n\tb\u{1b}c\r"), "a\n\tb\\x1bc\\r");
    }

    #[test]
    fn a_message_has_an_end() {
        let text = one_line("x".repeat(LONGEST + 7));
        assert!(text.ends_with("x… (7 more characters)"), "{}", &text[LONGEST - 5..]);
    }

    #[test]
    fn a_shell_takes_a_quoted_word_as_it_is() {
        for word in ["$(id)", "; rm -rf ~", "it's", "a b", "plain-1.0", ""] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(quoted("plain-1.0"), "plain-1.0");
        assert_eq!(quoted_path(Path::new("-rf")), "./-rf");
    }

    #[test]
    fn characters_arrive_in_pieces() {
        let mut written = Vec::new();
        let mut escaping = Escaping::new(&mut written);
        for byte in "é\u{1b}日\u{85}!".bytes().chain([0xff, b'.']) {
            escaping.write_all(&[byte]).unwrap();
        }
        assert_eq!(String::from_utf8(written).unwrap(), "é\\x1b日\\x85!\u{fffd}.");
    }
}
