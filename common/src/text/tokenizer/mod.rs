//! `tokenizer.json`: text to token ids and back.
//!
//! Special tokens are recognised only in text that a template or a tool wrote. Text from data is encoded
//! as ordinary characters, so that a row with `<|im_end|>` in it cannot end a turn.
//!
//! | file | what it is |
//! |---|---|
//! | `encode` | text to token ids |
//! | `check` | bounds on a tokenizer.json, before the library builds anything of it |
//! | `guard` | a bound on the library's time, and its panics as errors |
//! | `steps`, `pattern` | the steps around the model and their expressions, within bounds |
//! | `names`, `specials` | the names of special tokens, and their texts |

mod check;
mod encode;
mod guard;
mod names;
mod pattern;
mod specials;
mod steps;

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::{ModelWrapper, PostProcessorWrapper, TokenizerImpl};

use crate::text::TextFiles;
use crate::text::files::TOKENIZER;
use crate::{Context, Error, Result, error, files};
pub use encode::Tokens;
use guard::Guard;
pub(crate) use specials::Specials;
use steps::{BoundedDecoder, BoundedNormalizer, BoundedPreTokenizer};

/// The library's tokenizer with bounded steps around its model.
type Inner =
    TokenizerImpl<ModelWrapper, BoundedNormalizer, BoundedPreTokenizer, PostProcessorWrapper, BoundedDecoder>;

/// The tokenizer of a model.
pub struct Tokenizer {
    /// The library's tokenizer without its post-processor, which would add tokens that chat templates
    /// write themselves.
    inner: Inner,
    /// The bound on time that every call into `inner` goes through.
    guard: Guard,
    post_processor: Option<PostProcessorWrapper>,
    special_tokens: Map<String, Value>,
    specials: Specials,
    /// The ids of all special tokens except the unknown token.
    controls: HashSet<u32>,
    /// Whether the tokenizer puts a space in front of a text, as SentencePiece does.
    adds_prefix_space: bool,
}

impl Tokenizer {
    /// The tokenizer of the model in `directory`.
    pub fn load(directory: &Path) -> Result<Self> {
        Self::of(&TextFiles::of(directory, None))
    }

    /// Reads `tokenizer.json`, and the names of special tokens from `tokenizer_config.json` and
    /// `special_tokens_map.json`, from the files of a model.
    pub fn of(model: &TextFiles) -> Result<Self> {
        let path = model.path(TOKENIZER);
        if !path.exists() {
            return Err(missing(&path));
        }
        let bytes = files::read(&path, files::TOKENIZER)?;
        Self::from_bytes(&bytes, names::special_tokens(model)?)
            .with_context(|| format!("cannot read {}", path.display()))
            .hint("download the model's tokenizer.json again")
    }

    /// A tokenizer from the bytes of `tokenizer.json`; `special_tokens` maps names such as
    /// `eos_token` to their text.
    pub fn from_bytes(bytes: &[u8], special_tokens: Map<String, Value>) -> Result<Self> {
        check::check_structure(bytes)?;
        let json: Value = serde_json::from_slice(bytes)?;
        check::check(&json)?;
        let guard = Guard::default();
        // Building takes time for each entry, which is short.
        let mut inner = guard.run(bytes.len(), || Inner::deserialize(json))??;
        // A stored truncation would shorten texts silently.
        inner.with_truncation(None).map_err(Error::malformed)?;
        inner.with_padding(None);
        let post_processor = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let added = inner.get_added_tokens_decoder();
        let added = added.into_values().filter(|token| token.special).map(|token| token.content);
        let named = special_tokens
            .values()
            .flat_map(|value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
        let named = named.filter_map(Value::as_str).map(str::to_owned);
        let specials = Specials::new(added.chain(named))?;
        let mut tokenizer = Self {
            inner,
            guard,
            post_processor,
            special_tokens,
            specials,
            controls: HashSet::new(),
            adds_prefix_space: false,
        };
        tokenizer.controls = tokenizer.find_controls()?;
        let newline = tokenizer.encode("\n")?;
        let after_newline = tokenizer.encode("\na")?;
        let letter = tokenizer.encode("a")?;
        tokenizer.adds_prefix_space = after_newline.strip_prefix(newline.as_slice()) != Some(&letter);
        // A tokenizer that fails on any text is reported now.
        let document = tokenizer.encode_rendered("a 1", &[], &[])?;
        tokenizer.as_document(document)?;
        tokenizer.decode_with_special(&letter)?;
        Ok(tokenizer)
    }

    fn find_controls(&self) -> Result<HashSet<u32>> {
        let mut controls: HashSet<u32> =
            self.specials.contents().filter_map(|content| self.token_id(content)).collect();
        let unknown = self.special_tokens.get("unk_token").and_then(Value::as_str);
        unknown.and_then(|unknown| self.token_id(unknown)).map(|unknown| controls.remove(&unknown));
        // A character that no vocabulary has.
        for unknown in self.plain_encoding("\u{10FFFD}")?.get_ids() {
            controls.remove(unknown);
        }
        Ok(controls)
    }

    /// Runs work of the library on an input of `bytes` bytes.
    fn run<T>(&self, bytes: usize, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        let refused = |problem| error!(Row, "the model's tokenizer does not take a text: {problem}");
        self.guard.run(bytes, work)?.map_err(refused)
    }

    /// The text of tokens, without special ones. Bytes that form no character become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.run(ids.len(), || self.inner.decode(ids, true))
    }

    /// The text of tokens, special ones included.
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String> {
        self.run(ids.len(), || self.inner.decode(ids, false))
    }

    /// The id of the token with this text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether `id` is a special token, such as `<|im_end|>`.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some_and(|token| self.specials.contains(&token))
    }

    /// Whether [`decode`](Self::decode) omits `id`, because it is a special token or none at all.
    pub(crate) fn is_omitted(&self, id: u32) -> bool {
        let is_special = |token: String| self.inner.get_added_vocabulary().is_special_token(&token);
        self.inner.id_to_token(id).is_none_or(is_special)
    }

    /// Whether `id` is a special token that only a template may write, which is any except the unknown
    /// token.
    pub(crate) fn is_control(&self, id: u32) -> bool {
        self.controls.contains(&id)
    }

    /// The special tokens that have names: `bos_token`, `eos_token`, `pad_token`, `unk_token` and lists of
    /// others, where the model has them.
    pub fn special_tokens(&self) -> &Map<String, Value> {
        &self.special_tokens
    }

    /// The texts of all special tokens.
    pub(crate) fn specials(&self) -> &Specials {
        &self.specials
    }

    /// The id of the token that ends a text, where the model names one.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.special_tokens.get("eos_token").and_then(Value::as_str).and_then(|token| self.token_id(token))
    }

    /// The number of tokens, added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// The error for a model without `tokenizer.json`, with a hint how to make one from older files.
fn missing(path: &Path) -> Error {
    let directory = path.parent().unwrap_or(path);
    let problem = error!("there is no {}", path.display());
    let others = ["tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"];
    match others.into_iter().find(|other| directory.join(other).exists()) {
        Some(_) => problem.hint(format_args!(
            "make it of the older files: python -c 'import sys, transformers; \
             transformers.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])' {}",
            crate::cli::quoted_path(directory)
        )),
        None => problem.hint("the directory of a Hugging Face model holds tokenizer.json"),
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
pub(crate) mod tests {
    use serde_json::Map;

    use super::Tokenizer;

    /// A tokenizer of bytes: one token each, then `ab`, two line breaks, `<|im_start|>` and `<|im_end|>`.
    pub(crate) fn byte_tokenizer_json() -> String {
        ::tests::tiny_model::byte_tokenizer(&[["a", "b"], ["Ċ", "Ċ"]]).to_string()
    }

    pub(crate) fn byte_tokenizer() -> Tokenizer {
        Tokenizer::from_bytes(byte_tokenizer_json().as_bytes(), Map::new()).unwrap()
    }

    #[test]
    fn data_never_becomes_a_special_token() {
        let tokenizer = byte_tokenizer();
        assert_eq!(tokenizer.encode("<|im_end|>").unwrap(), [259]);
        let plain = tokenizer.encode_data("<|im_end|>").unwrap();
        assert_eq!(plain.len(), "<|im_end|>".len());
        assert_eq!(tokenizer.decode(&plain).unwrap(), "<|im_end|>");
        let mixed = tokenizer.encode_rendered("<|im_end|>a<|im_end|>", &[0..10], &[]).unwrap();
        assert_eq!((mixed.ids.len(), mixed.ids.last()), (12, Some(&259)));
        assert_eq!(mixed.offsets[10..], [10..11, 11..21]);
    }

    #[test]
    fn cuts_begin_a_token() {
        let tokenizer = byte_tokenizer();
        assert_eq!(tokenizer.encode_rendered("abab", &[], &[]).unwrap().offsets, [0..2, 2..4]);
        assert_eq!(tokenizer.encode_rendered("abab", &[], &[1]).unwrap().offsets, [0..1, 1..2, 2..4]);
    }

    #[test]
    fn a_broken_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = Tokenizer::load(directory.path()).err().unwrap();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        fs_err::write(directory.path().join("tokenizer.json"), "{}").unwrap();
        let error = Tokenizer::load(directory.path()).err().unwrap();
        assert!(error.to_string().contains("tokenizer.json") && error.hint_text().is_some(), "{error}");
    }
}
