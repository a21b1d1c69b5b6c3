//! Text to token ids: of a template, of data, and of both in one text.

use std::ops::Range;

use tokenizers::tokenizer::{Encoding, OffsetType, PostProcessor};
use tokenizers::{Model, NormalizedString, Normalizer, PreTokenizedString, PreTokenizer, Token};

use super::Tokenizer;
use crate::{Result, bail};

/// Token ids, and the bytes of the text that each stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// The ids, in order.
    pub ids: Vec<u32>,
    /// The byte range of each id in the text; the parts of one split character share a range.
    pub offsets: Vec<Range<usize>>,
}

impl Tokenizer {
    /// Encodes a text in which special tokens are recognised and none is added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.run(text.len(), || Ok(self.inner.encode_fast(text, false)?.get_ids().to_vec()))
    }

    /// Adds the tokens that the tokenizer puts around a text, such as Llama's `<|begin_of_text|>`, with
    /// which a base model is prompted.
    pub(crate) fn as_document(&self, tokens: Tokens) -> Result<Vec<u32>> {
        let Some(processor) = &self.post_processor else { return Ok(tokens.ids) };
        let bytes = tokens.offsets.last().map_or(0, |last| last.end);
        let offsets = tokens.offsets.into_iter().map(|range| (range.start, range.end));
        let tokens = tokens.ids.into_iter().zip(offsets);
        let tokens = tokens.map(|(id, offsets)| Token { id, value: String::new(), offsets }).collect();
        let encoding = Encoding::from_tokens(tokens, 0);
        self.run(bytes, || Ok(processor.process(encoding, None, true)?.get_ids().to_vec()))
    }

    /// Encodes data: a text in which nothing is a special token.
    pub fn encode_data(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_rendered(text, std::slice::from_ref(&(0..text.len())), &[])?.ids)
    }

    /// Encodes a rendered text. Special tokens are recognised except within `literal`, the ascending byte
    /// ranges of special tokens from data. Every range of `literal` and every position of `cuts` begins a
    /// new token.
    pub fn encode_rendered(&self, text: &str, literal: &[Range<usize>], cuts: &[usize]) -> Result<Tokens> {
        let mut pieces: Vec<(Range<usize>, bool)> = Vec::new();
        let mut from = 0;
        let template_text = |from: usize, to: usize, pieces: &mut Vec<_>| {
            let inside = cuts.iter().copied().filter(|&cut| from < cut && cut < to);
            let mut begin = from;
            for end in inside.chain([to]) {
                if begin < end {
                    pieces.push((begin..end, false));
                }
                begin = end;
            }
        };
        for range in literal {
            template_text(from, range.start, &mut pieces);
            pieces.push((range.clone(), true));
            from = range.end;
        }
        template_text(from, text.len(), &mut pieces);
        let mut tokens = Tokens::default();
        for (range, is_literal) in pieces {
            self.encode_piece(text, range, is_literal, &mut tokens)?;
        }
        Ok(tokens)
    }

    fn encode_piece(
        &self,
        text: &str,
        range: Range<usize>,
        is_literal: bool,
        tokens: &mut Tokens,
    ) -> Result<()> {
        let encode = |text: &str| {
            if is_literal {
                self.plain_encoding(text)
            } else {
                self.run(text.len(), || self.inner.encode(text, false))
            }
        };
        let piece = &text[range.clone()];
        let is_control = |encoding: &Encoding| encoding.get_ids().iter().any(|id| self.controls.contains(id));
        if is_literal && is_control(&encode(piece)?) {
            // The vocabulary itself has the special token, so the text is encoded character by character.
            if piece.chars().nth(1).is_none() {
                bail!(Row, "the tokenizer has no token for {piece:?} but a special one");
            }
            return piece.char_indices().try_for_each(|(at, c)| {
                let begin = range.start + at;
                self.encode_piece(text, begin..begin + c.len_utf8(), true, tokens)
            });
        }
        // Within a text there is no prefix space, so a piece is encoded after a newline, whose tokens are
        // dropped.
        if self.adds_prefix_space && range.start > 0 {
            let newline = encode("\n")?;
            let encoding = encode(&format!("\n{piece}"))?;
            if encoding.get_ids().starts_with(newline.get_ids()) {
                tokens.append(&encoding, newline.get_ids().len(), |at| (at + range.start).saturating_sub(1));
                return Ok(());
            }
        }
        tokens.append(&encode(piece)?, 0, |at| at + range.start);
        Ok(())
    }

    /// Encodes a text by the steps of the tokenizer without the one that looks for added tokens.
    pub(super) fn plain_encoding(&self, text: &str) -> Result<Encoding> {
        self.run(text.len(), || {
            let mut normalized = NormalizedString::from(text);
            if let Some(normalizer) = self.inner.get_normalizer() {
                normalizer.normalize(&mut normalized)?;
            }
            let mut pieces = PreTokenizedString::from(normalized);
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut pieces)?;
            }
            let model = self.inner.get_model();
            pieces.tokenize(|piece| model.tokenize(piece.get()))?;
            pieces.into_encoding(None, 0, OffsetType::Byte)
        })
    }
}

impl Tokens {
    fn append(&mut self, encoding: &Encoding, skip: usize, shift: impl Fn(usize) -> usize) {
        self.ids.extend_from_slice(&encoding.get_ids()[skip..]);
        let offsets = encoding.get_offsets()[skip..].iter();
        self.offsets.extend(offsets.map(|&(start, end)| shift(start)..shift(end)));
    }
}
