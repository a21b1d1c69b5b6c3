//! The ways to cut a text into words before byte pairs are merged that are read, under llama.cpp's names
//! (`llama-vocab.cpp`), as tokenizer.json has them.

use serde_json::{Value, json};

use crate::{Result, error};

/// What tokenizer.json says about cutting a text.
pub(super) struct PreTokenizer {
    /// The `normalizer`.
    pub normalizer: Value,
    /// The `pre_tokenizer`.
    pub steps: Value,
    /// Whether a word that is a token is not made of merges.
    pub ignores_merges: bool,
}

/// The expression of Llama 3 and Qwen2, which differ in how many digits go together.
const WORDS: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// The way of this name.
pub(super) fn named(name: &str) -> Result<PreTokenizer> {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex});
    let sequence = |first: Value, use_regex: bool| json!({"type": "Sequence", "pretokenizers": [first, bytes(use_regex)]});
    let words = |digits: &str| {
        let pattern = format!("{}{digits}{}", WORDS[0], WORDS[1]);
        sequence(
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}),
            false,
        )
    };
    let (normalizer, steps, ignores_merges) = match name {
        "gpt-2" => (Value::Null, bytes(true), false),
        "smollm" => {
            (Value::Null, sequence(json!({"type": "Digits", "individual_digits": true}), true), false)
        }
        "qwen2" => (json!({"type": "NFC"}), words(r"\p{N}"), false),
        "llama-bpe" => (Value::Null, words(r"\p{N}{1,3}"), true),
        _ => {
            return Err(error!(
                "the tokenizer cuts texts in a way called {name:?}, which is not read from GGUF files"
            )
            .hint("gpt-2, smollm, qwen2 and llama-bpe are; read the model's directory instead"));
        }
    };
    Ok(PreTokenizer { normalizer, steps, ignores_merges })
}
