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

/// The expression of Mistral Nemo and GPT-4o, which differ in contractions and digits.
fn words_by_case(contractions: &str, digits: &str) -> String {
    let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
    let begin = r"[^\r\n\p{L}\p{N}]?";
    let rest = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    format!("{begin}{upper}*{lower}+{contractions}|{begin}{upper}+{lower}*{contractions}|{digits}{rest}")
}

/// The way of this name.
pub(super) fn named(name: &str) -> Result<PreTokenizer> {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex});
    let sequence = |first: Value, use_regex: bool| json!({"type": "Sequence", "pretokenizers": [first, bytes(use_regex)]});
    let split = |pattern: String| {
        sequence(
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}),
            false,
        )
    };
    let words = |digits: &str| split(format!("{}{digits}{}", WORDS[0], WORDS[1]));
    let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
    let (normalizer, steps, ignores_merges) = match name {
        "gpt-2" | "olmo" => (Value::Null, bytes(true), false),
        "smollm" | "starcoder" | "refact" => {
            (Value::Null, sequence(json!({"type": "Digits", "individual_digits": true}), true), false)
        }
        "qwen2" => (json!({"type": "NFC"}), words(r"\p{N}"), false),
        "llama-bpe" | "glm4" => (Value::Null, words(r"\p{N}{1,3}"), true),
        "dbrx" | "smaug-bpe" | "chatglm-bpe" => (Value::Null, words(r"\p{N}{1,3}"), false),
        "tekken" => (Value::Null, split(words_by_case("", r"\p{N}")), true),
        "gpt-4o" => (Value::Null, split(words_by_case(contractions, r"\p{N}{1,3}")), false),
        _ => {
            return Err(error!(
                "the tokenizer cuts texts in a way called {name:?}, which is not read from GGUF files"
            )
            .hint(
                "those of GPT-2, SmolLM2, Qwen2, Llama 3, OLMo 2, Phi-4, Granite, GLM-4 and Mistral Nemo are; \
                 read the model's directory instead",
            ));
        }
    };
    Ok(PreTokenizer { normalizer, steps, ignores_merges })
}
