//! SentencePiece: the pieces of tokenizer.model with their scores, and the tokens that other files add.
//!
//! tokenizer.model is a message in the format of Protocol Buffers (`sentencepiece_model.proto`), of which only the
//! pieces are read: field 1 of the message, with the text (field 1), the score (2) and the type (3) of each.

use std::path::Path;

use common::gguf::{Metadata, Value as Entry};
use common::{Context, Result, bail, error, files};
use serde_json::Value;

use super::{PIECES, TokenType, Tokens, added, read_config, read_tokenizer};

/// The score of a token that SentencePiece does not know.
const ADDED_SCORE: f32 = -1000.0;
/// The score of a row without a token.
const UNUSED_SCORE: f32 = -10_000.0;

/// Writes the pieces and added tokens. Phi-3's converter marks tokens as special only where they are called so, and
/// reads those of tokenizer.json too.
pub(super) fn write(directory: &Path, is_phi: bool, rows: usize, out: &mut Metadata) -> Result<()> {
    let path = directory.join(PIECES);
    if !path.exists() {
        return Err(error!("there is no {}", path.display())
            .hint("llama.cpp reads SentencePiece from it: copy it from the original model"));
    }
    let bytes = files::read(&path, files::TOKENIZER)?;
    let pieces = pieces(&bytes).with_context(|| path.display().to_string())?;
    let mut tokens = Tokens::unused(rows);
    let mut scores = vec![UNUSED_SCORE; rows];
    // More pieces than rows are left out, as by the converter.
    for (id, piece) in pieces.into_iter().enumerate().take(rows) {
        scores[id] = piece.score;
        tokens.set(id as u64, piece.text, piece.kind)?;
    }
    let is_row = |id: &u64| *id < rows as u64;
    let mut set = |id: u64, text: String, kind: TokenType| {
        scores[id as usize] = ADDED_SCORE;
        tokens.set(id, text, kind)
    };
    let listed = directory.join("added_tokens.json");
    if listed.exists() {
        let listed: serde_json::Map<String, Value> = files::read_json(&listed, files::TOKENIZER_CONFIG)?;
        for (text, id) in &listed {
            if let Some(id) = id.as_u64().filter(is_row) {
                set(id, text.clone(), TokenType::UserDefined)?;
            }
        }
    }
    let typed = |content: &str, is_special: bool| match (is_phi, is_special) {
        (false, _) => added(content, is_special),
        (true, true) => (content.to_owned(), TokenType::Control),
        (true, false) => (content.to_owned(), TokenType::UserDefined),
    };
    let config = read_config(directory)?;
    for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        if let (Some(id), Some(content)) = (id.parse().ok().filter(is_row), token["content"].as_str()) {
            let (text, kind) = typed(content, token["special"] == true);
            set(id, text, kind)?;
        }
    }
    if is_phi {
        for token in read_tokenizer(directory)?["added_tokens"].as_array().into_iter().flatten() {
            if let (Some(id), Some(content)) =
                (token["id"].as_u64().filter(is_row), token["content"].as_str())
            {
                let (text, kind) = typed(content, token["special"] == true);
                set(id, text, kind)?;
            }
        }
    }
    out.set_text("tokenizer.ggml.model", "llama");
    out.set_text("tokenizer.ggml.pre", "default");
    tokens.write(out);
    out.set("tokenizer.ggml.scores", Entry::F32s(scores));
    Ok(())
}

/// A piece of tokenizer.model.
#[derive(Debug, PartialEq)]
struct Piece {
    text: String,
    score: f32,
    kind: TokenType,
}

/// The pieces of a tokenizer.model, by their ids.
fn pieces(bytes: &[u8]) -> Result<Vec<Piece>> {
    let mut message = Message { bytes };
    let mut pieces = Vec::new();
    while let Some((field, content)) = message.next()? {
        if let (1, Content::Bytes(bytes)) = (field, content) {
            pieces.push(piece(bytes)?);
        }
    }
    match pieces.is_empty() {
        true => bail!(Malformed, "no pieces of a SentencePiece model"),
        false => Ok(pieces),
    }
}

fn piece(bytes: &[u8]) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: TokenType::Normal };
    let mut message = Message { bytes };
    while let Some((field, content)) = message.next()? {
        match (field, content) {
            (1, Content::Bytes(text)) => match std::str::from_utf8(text) {
                Ok(text) => text.clone_into(&mut piece.text),
                Err(problem) => bail!(Malformed, "a piece is not UTF-8: {problem}"),
            },
            (2, Content::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Content::Number(kind)) => {
                piece.kind = match kind {
                    2 => TokenType::Unknown,
                    3 => TokenType::Control,
                    5 => TokenType::Unused,
                    6 => TokenType::Byte,
                    // The converter does not ask whether a piece is user-defined.
                    _ => TokenType::Normal,
                }
            }
            _ => {}
        }
    }
    Ok(piece)
}

/// A message in the format of Protocol Buffers, read field by field.
struct Message<'a> {
    bytes: &'a [u8],
}

/// The content of a field.
enum Content<'a> {
    Number(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    Other,
}

impl<'a> Message<'a> {
    /// The next field's number and content; `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Content<'a>)>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = self.number()?;
        let content = match tag & 7 {
            0 => Content::Number(self.number()?),
            1 => self.take(8).map(|_| Content::Other)?,
            2 => {
                let length = self.number()?;
                Content::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => {
                let bytes = self.take(4)?;
                Content::Fixed32(bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u32::from(byte)))
            }
            other => bail!(Malformed, "a field of the unknown kind {other}"),
        };
        Ok(Some((tag >> 3, content)))
    }

    /// A number in groups of seven bits, the lowest first.
    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for group in 0..10 {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << (7 * group);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        bail!(Malformed, "a number of more than 64 bits")
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        match self.bytes.split_at_checked(count) {
            Some((taken, rest)) => {
                self.bytes = rest;
                Ok(taken)
            }
            None => bail!(Malformed, "the file ends within a field"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_every_type_are_read_and_damage_is_an_error() {
        // Two pieces, and a field of trainer settings that is passed over.
        let one = [0x0a, 3, b'<', b'u', b'>', 0x15, 0, 0, 0x80, 0xbf, 0x18, 2];
        let byte = [0x0a, 6, b'<', b'0', b'x', b'0', b'A', b'>', 0x18, 6];
        let mut file = vec![0x0a, one.len() as u8];
        file.extend(one);
        file.extend([0x12, 2, 0x08, 1, 0x0a, byte.len() as u8]);
        file.extend(byte);
        let found = pieces(&file).unwrap();
        assert_eq!(found[0], Piece { text: "<u>".into(), score: -1.0, kind: TokenType::Unknown });
        assert_eq!(found[1], Piece { text: "<0x0A>".into(), score: 0.0, kind: TokenType::Byte });
        for damaged in [&file[..5], &[0x0b], &[0x80; 12], b"", &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            assert!(pieces(damaged).is_err(), "{damaged:?}");
        }
    }
}
