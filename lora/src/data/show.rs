//! An example as text, with the supervised tokens marked.

use std::io::IsTerminal;

use common::Result;
use common::text::{Example, Tokenizer};

const GREEN: (&str, &str) = ("\x1b[32m", "\x1b[0m");
const BRACKETS: (&str, &str) = ("«", "»");

/// The text of an example, special tokens included. Supervised text is green, or in « » where stderr is not a
/// terminal.
pub(super) fn shown(tokenizer: &Tokenizer, example: &Example) -> Result<String> {
    let (begin, end) = if std::io::stderr().is_terminal() { GREEN } else { BRACKETS };
    let mut text = String::new();
    let mut from = 0;
    for run in example.trained.chunk_by(|a, b| a == b) {
        let piece = tokenizer.decode_with_special(&example.tokens[from..from + run.len()])?;
        from += run.len();
        match run[0] {
            true => text += &format!("{begin}{piece}{end}"),
            false => text += &piece,
        }
    }
    Ok(text)
}
