//! The steps before and after a tokenizer's model, each bounded in time and in the growth of the text.
//!
//! One `Replace` that doubles a text is harmless, but thirty in a row fill any memory, so the text is
//! measured after every step.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use tokenizers::normalizers::Precompiled;
use tokenizers::tokenizer::pattern::{Invert, Pattern};
use tokenizers::tokenizer::{PreTokenizedString, Result, SplitDelimiterBehavior};
use tokenizers::{
    Decoder, DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, PreTokenizer,
    PreTokenizerWrapper,
};

use super::guard::check_time;
use super::pattern::{Bounded, Sought};
use crate::panics::stop;

/// The most that the steps may lengthen a text, as a factor: NFKC makes an Arabic ligature 11 times as
/// long, and a byte may become two.
const GROWTH: usize = 24;
/// The bytes that the steps may add to a text in any case.
const MARGIN: usize = 1 << 16;

/// Stops the work where a text of `original` bytes has grown to `bytes` beyond the bound.
fn check_growth(original: usize, bytes: usize) {
    if bytes > original.saturating_mul(GROWTH).saturating_add(MARGIN) {
        stop(format!("its steps make {bytes} bytes or more of a text of {original}"));
    }
}

/// A step that replaces the matches of a pattern.
#[derive(Deserialize)]
struct ReplaceStep {
    pattern: Sought,
    content: String,
}

/// A step that cuts a text at the matches of a pattern.
#[derive(Deserialize)]
struct SplitStep {
    pattern: Sought,
    behavior: SplitDelimiterBehavior,
    invert: bool,
}

/// Collects the steps of a section. Those of a `Sequence` are under `list` and may be sequences too.
pub(super) fn flatten<'a>(section: &'a Value, list: &str, steps: &mut Vec<&'a Value>) {
    match section.get(list).and_then(Value::as_array) {
        Some(inner) if section["type"] == "Sequence" => {
            inner.iter().for_each(|step| flatten(step, list, steps));
        }
        _ => steps.push(section),
    }
}

/// Builds the steps of a section: those of the type `ours` by `bounded`, the others by the library.
fn steps<'de, D: Deserializer<'de>, S, W: DeserializeOwned>(
    deserializer: D,
    (list, ours): (&str, &str),
    bounded: impl Fn(Value) -> Result<S>,
    wrapped: impl Fn(W) -> S,
) -> std::result::Result<Vec<S>, D::Error> {
    let section = Value::deserialize(deserializer)?;
    let mut found = Vec::new();
    flatten(&section, list, &mut found);
    let build = |step: &Value| -> Result<S> {
        match step["type"] == ours {
            true => bounded(step.clone()),
            false => Ok(wrapped(W::deserialize(step.clone())?)),
        }
    };
    let named = |step: &Value, problem| {
        de::Error::custom(format_args!("the step {} of {list}: {problem}", step["type"]))
    };
    found.into_iter().map(|step| build(step).map_err(|problem| named(step, problem))).collect()
}

enum NormalizerStep {
    Replace(Bounded, String),
    Precompiled(Precompiled),
    Other(NormalizerWrapper),
}

/// A normalizer, which changes a text before it is cut, within bounds.
pub(super) struct BoundedNormalizer(Vec<NormalizerStep>);

impl<'de> Deserialize<'de> for BoundedNormalizer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let replace = |step| {
            let ReplaceStep { pattern, content } = serde_json::from_value(step)?;
            Ok(NormalizerStep::Replace(Bounded::new(pattern)?, content))
        };
        let wrapped = |step| match step {
            NormalizerWrapper::Precompiled(map) => NormalizerStep::Precompiled(map),
            other => NormalizerStep::Other(other),
        };
        steps(deserializer, ("normalizers", "Replace"), replace, wrapped).map(Self)
    }
}

impl Normalizer for BoundedNormalizer {
    fn normalize(&self, text: &mut NormalizedString) -> Result<()> {
        let original = text.len_original();
        for step in &self.0 {
            // The library drops errors of a normalizer where it looks for added tokens, and would go on
            // with a text that is normalized in part.
            let outcome = match step {
                NormalizerStep::Replace(pattern, content) => {
                    pattern.find_matches(text.get()).and_then(|found| {
                        let matches = found.iter().filter(|(_, is_match)| *is_match).count();
                        check_growth(original, matches.saturating_mul(content.len()));
                        text.replace(Found(found), content)
                    })
                }
                NormalizerStep::Precompiled(map) => {
                    check_precompiled(map, original, text.get());
                    map.normalize(text)
                }
                NormalizerStep::Other(step) => step.normalize(text),
            };
            if let Err(problem) = outcome {
                stop(problem.to_string());
            }
            check_growth(original, text.len());
            check_time();
        }
        Ok(())
    }
}

/// A pattern whose matches have been found already.
struct Found(Vec<((usize, usize), bool)>);

impl Pattern for Found {
    fn find_matches(&self, _: &str) -> Result<Vec<((usize, usize), bool)>> {
        Ok(self.0.clone())
    }
}

/// Measures the result of a map of characters, piece by piece, before it is applied.
fn check_precompiled(map: &Precompiled, original: usize, text: &str) {
    let mut bytes = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.char_indices().nth(64).map_or(rest.len(), |(at, _)| at);
        bytes += map.normalize_string(&rest[..end]).len();
        rest = &rest[end..];
        check_growth(original, bytes);
        check_time();
    }
}

enum PreTokenizerStep {
    Split(Bounded, SplitDelimiterBehavior, bool),
    Other(PreTokenizerWrapper),
}

/// A pre-tokenizer, which cuts a text into pieces for the model, within bounds.
pub(super) struct BoundedPreTokenizer(Vec<PreTokenizerStep>);

impl<'de> Deserialize<'de> for BoundedPreTokenizer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let split = |step| {
            let SplitStep { pattern, behavior, invert } = serde_json::from_value(step)?;
            Ok(PreTokenizerStep::Split(Bounded::new(pattern)?, behavior, invert))
        };
        steps(deserializer, ("pretokenizers", "Split"), split, PreTokenizerStep::Other).map(Self)
    }
}

impl PreTokenizer for BoundedPreTokenizer {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        for step in &self.0 {
            match step {
                PreTokenizerStep::Split(pattern, behavior, false) => {
                    text.split(|_, piece| piece.split(pattern, *behavior))?;
                }
                PreTokenizerStep::Split(pattern, behavior, true) => {
                    text.split(|_, piece| piece.split(Invert(pattern), *behavior))?;
                }
                PreTokenizerStep::Other(step) => step.pre_tokenize(text)?,
            }
            check_time();
        }
        Ok(())
    }
}

enum DecoderStep {
    Replace(Bounded, String),
    Other(DecoderWrapper),
}

/// A decoder, which makes text of tokens, within bounds.
pub(super) struct BoundedDecoder(Vec<DecoderStep>);

impl<'de> Deserialize<'de> for BoundedDecoder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let replace = |step| {
            let ReplaceStep { pattern, content } = serde_json::from_value(step)?;
            Ok(DecoderStep::Replace(Bounded::new(pattern)?, content))
        };
        steps(deserializer, ("decoders", "Replace"), replace, DecoderStep::Other).map(Self)
    }
}

impl Decoder for BoundedDecoder {
    fn decode_chain(&self, mut tokens: Vec<String>) -> Result<Vec<String>> {
        let original = tokens.iter().map(String::len).sum();
        for step in &self.0 {
            tokens = match step {
                DecoderStep::Replace(pattern, content) => {
                    let mut bytes = 0;
                    let replaced = tokens.iter().map(|token| {
                        let token = replaced(pattern, content, token)?;
                        bytes += token.len();
                        check_growth(original, bytes);
                        Ok(token)
                    });
                    replaced.collect::<Result<_>>()?
                }
                DecoderStep::Other(step) => step.decode_chain(tokens)?,
            };
            check_growth(original, tokens.iter().map(String::len).sum());
            check_time();
        }
        Ok(tokens)
    }
}

fn replaced(pattern: &Bounded, content: &str, token: &str) -> Result<String> {
    let found = pattern.find_matches(token)?;
    Ok(found
        .into_iter()
        .map(|((start, end), is_match)| if is_match { content } else { &token[start..end] })
        .collect())
}
