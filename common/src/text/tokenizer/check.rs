//! Checks the sizes in a tokenizer.json before the library builds anything of it.
//!
//! The bounds are several times those of the largest public tokenizers, and keep the memory of a tokenizer
//! below a gigabyte.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::steps::flatten;
use crate::{Error, Result, bail, error};

/// Most brackets, commas and colons of the whole file. A vocabulary of 262,144 tokens with its merges has
/// 2.6 million.
const STRUCTURE: usize = 8_000_000;
/// The deepest nesting of brackets.
const DEPTH: usize = 64;
/// Most tokens of a vocabulary, and most merges.
const TOKENS: usize = 1 << 20;
/// Most bytes of all tokens together.
const VOCABULARY_BYTES: usize = 16 << 20;
/// Most bytes of all tokens of a Unigram model, which keeps them as a tree of bytes.
const UNIGRAM_BYTES: usize = 4 << 20;
/// Most bytes of a token.
const TOKEN_BYTES: usize = 1024;
/// The largest id.
const ID: u64 = (1 << 24) - 1;
/// Most added tokens, and most bytes of all of them.
const ADDED_TOKENS: usize = 1 << 18;
const ADDED_BYTES: usize = 8 << 20;
/// Most steps of a normalizer, a pre-tokenizer or a decoder.
const STEPS: usize = 64;
/// Most bytes of a pattern, and of the text that replaces its matches.
const PATTERN_BYTES: usize = 16 << 10;
const CONTENT_BYTES: usize = 1024;
/// Most steps of a pre-tokenizer that turn a byte into two characters.
const BYTE_LEVELS: usize = 2;
/// Most characters of a word that WordPiece looks up piece by piece, in quadratic time.
const WORD_CHARACTERS: u64 = 300;

/// Counts the brackets, commas and colons of JSON, which bound the memory that parsing it takes.
pub(super) fn check_structure(json: &[u8]) -> Result<()> {
    let (mut structure, mut depth, mut deepest) = (0usize, 0usize, 0usize);
    let (mut in_text, mut escaped) = (false, false);
    for &byte in json {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (true, _) => {}
            (false, b'{' | b'[') => {
                structure += 1;
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            (false, b',' | b':') => structure += 1,
            (false, _) => {}
        }
    }
    at_most("entries", structure, STRUCTURE)?;
    at_most("lists within lists", deepest, DEPTH)
}

/// Checks the parts of a tokenizer.
pub(super) fn check(json: &Value) -> Result<()> {
    let Some(model) = json.get("model").and_then(Value::as_object) else {
        bail!(Malformed, "it has no model");
    };
    check_model(model).map_err(|problem| problem.context("model"))?;
    check_added(&json["added_tokens"]).map_err(|problem| problem.context("added_tokens"))?;
    for (section, list) in [
        ("normalizer", "normalizers"),
        ("pre_tokenizer", "pretokenizers"),
        ("decoder", "decoders"),
        ("post_processor", "processors"),
    ] {
        if json.get(section).is_some_and(|section| !section.is_null()) {
            check_section(&json[section], list).map_err(|problem| problem.context(section))?;
        }
    }
    Ok(())
}

fn at_most(what: &str, found: usize, most: usize) -> Result<()> {
    match found <= most {
        true => Ok(()),
        false => Err(error!(TooLarge, "{found} {what}, expected at most {most}")),
    }
}

fn check_model(model: &Map<String, Value>) -> Result<()> {
    let mut bytes = 0;
    let mut count = 0;
    let mut token = |token: &str, id: Option<&Value>| -> Result<()> {
        at_most("bytes of a token", token.len(), TOKEN_BYTES)?;
        if let Some(id) = id {
            check_id(token, id)?;
        }
        bytes += token.len();
        count += 1;
        Ok(())
    };
    match model.get("vocab") {
        Some(Value::Object(vocabulary)) => {
            vocabulary.iter().try_for_each(|(text, id)| token(text, Some(id)))?
        }
        Some(Value::Array(pieces)) => {
            for piece in pieces {
                token(piece[0].as_str().unwrap_or_default(), None)?;
            }
            at_most("bytes of tokens", bytes, UNIGRAM_BYTES)?;
        }
        _ => bail!(Malformed, "it has no vocab"),
    }
    at_most("bytes of tokens", bytes, VOCABULARY_BYTES)?;
    at_most("tokens", count, TOKENS)?;
    if let Some(merges) = model.get("merges").and_then(Value::as_array) {
        at_most("merges", merges.len(), TOKENS)?;
    }
    if let Some(dropout) = model.get("dropout").and_then(Value::as_f64).filter(|&dropout| dropout != 0.0) {
        bail!(Unsupported, "dropout is {dropout}, which makes tokens random, expected none");
    }
    if let Some(most) = model.get("max_input_chars_per_word").and_then(Value::as_u64)
        && most > WORD_CHARACTERS
    {
        bail!(TooLarge, "max_input_chars_per_word is {most}, expected at most {WORD_CHARACTERS}");
    }
    Ok(())
}

fn check_id(token: &str, id: &Value) -> Result<()> {
    match id.as_u64() {
        Some(0..=ID) => Ok(()),
        _ => Err(error!(Malformed, "the id of {token:?} is {id}, expected a number from 0 to {ID}")),
    }
}

fn check_added(tokens: &Value) -> Result<()> {
    let Some(tokens) = tokens.as_array() else { return Ok(()) };
    at_most("tokens", tokens.len(), ADDED_TOKENS)?;
    let mut bytes = 0;
    for token in tokens {
        let content = token["content"].as_str().unwrap_or_default();
        at_most("bytes of a token", content.len(), TOKEN_BYTES)?;
        check_id(content, &token["id"])?;
        bytes += content.len();
    }
    at_most("bytes of tokens", bytes, ADDED_BYTES)
}

fn check_section(section: &Value, list: &str) -> Result<()> {
    let mut steps = Vec::new();
    flatten(section, list, &mut steps);
    at_most("steps", steps.len(), STEPS)?;
    let byte_levels = steps.iter().filter(|step| step["type"] == "ByteLevel").count();
    if list == "pretokenizers" {
        at_most("ByteLevel steps", byte_levels, BYTE_LEVELS)?;
    }
    for step in steps {
        let Some(kind) = step["type"].as_str() else { bail!(Malformed, "a step has no type") };
        check_step(kind, step).map_err(|problem| problem.context(kind))?;
    }
    Ok(())
}

fn check_step(kind: &str, step: &Value) -> Result<()> {
    let text = |key: &str| step[key].as_str().unwrap_or_default();
    for pattern in [&step["pattern"]["String"], &step["pattern"]["Regex"]] {
        at_most("bytes of a pattern", pattern.as_str().map_or(0, str::len), PATTERN_BYTES)?;
    }
    for key in ["content", "prepend", "prefix", "suffix", "replacement", "pad_token", "word_delimiter_token"]
    {
        at_most(&format!("bytes of {key}"), text(key).len(), CONTENT_BYTES)?;
    }
    match kind {
        "Prepend" if text("prepend").is_empty() => bail!(Malformed, "there is nothing to prepend"),
        "FixedLength" if step["length"] == 0 => bail!(Malformed, "its length is 0"),
        "Precompiled" => check_precompiled(text("precompiled_charsmap")),
        "TemplateProcessing" => check_template(step),
        _ => Ok(()),
    }
}

/// Checks a precompiled map, which is a length, an array of that many bytes, and texts.
fn check_precompiled(map: &str) -> Result<()> {
    let bytes = BASE64_STANDARD.decode(map).map_err(Error::malformed)?;
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else { bail!(Malformed, "the map is empty") };
    let size = u32::from_le_bytes(*size) as usize;
    if size < 4 || size > rest.len() {
        bail!(Malformed, "the map announces an array of {size} bytes and has {}", rest.len());
    }
    Ok(())
}

/// Checks a template of special tokens around a text, which must not name the text twice.
fn check_template(step: &Value) -> Result<()> {
    let pieces = step["single"].as_array().map_or(&[][..], Vec::as_slice);
    at_most("pieces", pieces.len(), STEPS)?;
    let texts = pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
    at_most("times the text", texts, 1)?;
    for piece in pieces {
        if let Some(name) = piece["SpecialToken"]["id"].as_str() {
            let token = &step["special_tokens"][name];
            let Some(ids) = token["ids"].as_array() else {
                bail!(Malformed, "it names the token {name:?}, which its special_tokens lack");
            };
            at_most("ids of a token", ids.len(), STEPS)?;
            ids.iter().try_for_each(|id| check_id(name, id))?;
        }
    }
    Ok(())
}
