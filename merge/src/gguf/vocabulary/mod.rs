//! The tokenizer of a GGUF file, as llama.cpp's converter writes it: tokens, their types, merges or scores, special
//! tokens, and the chat template.
//!
//! | file | what it is |
//! |---|---|
//! | `byte_pairs` | byte-level BPE, from tokenizer.json |
//! | `sentence_pieces` | SentencePiece, from tokenizer.model |
//! | `pre_tokenizers` | llama.cpp's names of the ways to cut a text |
//! | `special_tokens` | the tokens that begin, end and fill texts |

mod byte_pairs;
mod pre_tokenizers;
mod sentence_pieces;
mod special_tokens;

use std::path::Path;

use common::gguf::{Metadata, Value as Entry};
use common::text::files::{TOKENIZER, TOKENIZER_CONFIG};
use common::text::{ChatTemplate, Tokenizer};
use common::{Context, Result, bail, error, files};
use serde_json::Value;

use special_tokens::SpecialTokens;

/// The name of SentencePiece's file.
const PIECES: &str = "tokenizer.model";
/// The size of the vocabulary of SmolLM and Granite, whose texts begin without a token.
const VOCABULARY_WITHOUT_BEGINNING: usize = 49_152;

/// Which tokenizers a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// SentencePiece where there is a tokenizer.model, else byte-level BPE.
    Any,
    /// As [`Kind::Any`], with Llama's settings of the beginning of a text.
    Llama,
    /// Byte-level BPE.
    BytePairs,
    /// Byte-level BPE with the special tokens of GLM-4.
    Glm,
    /// SentencePiece.
    SentencePieces,
    /// SentencePiece, but for Phi-4, which says that its tokenizer is GPT-2's.
    Phi,
}

/// The types of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// The tokens of a model by their ids, and their types.
struct Tokens {
    texts: Vec<String>,
    types: Vec<TokenType>,
}

impl Tokens {
    /// As many unused tokens as the embedding table has rows.
    fn unused(rows: usize) -> Self {
        let texts = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        Self { texts, types: vec![TokenType::Unused; rows] }
    }

    /// Sets a token. Fails where the model has no row for it.
    fn set(&mut self, id: u64, text: String, kind: TokenType) -> Result<()> {
        let rows = self.texts.len();
        match usize::try_from(id).ok().filter(|id| *id < rows) {
            Some(id) => {
                self.texts[id] = text;
                self.types[id] = kind;
                Ok(())
            }
            None => Err(error!("the tokenizer has a token {id}, and the embedding table {rows} rows")
                .hint("the tokenizer belongs to another model, or the model was not resized to it")),
        }
    }

    fn write(self, out: &mut Metadata) {
        out.set("tokenizer.ggml.tokens", Entry::Texts(self.texts));
        let types = self.types.into_iter().map(|kind| kind as i32).collect();
        out.set("tokenizer.ggml.token_type", Entry::I32s(types));
    }
}

/// Writes the tokenizer and the chat template of the model in `directory`, whose embedding table has `rows` rows.
/// `pre_tokenizer` is llama.cpp's name of how byte-level BPE cuts texts, found by its hash where it is `None`.
pub(super) fn write(
    directory: &Path,
    kind: Kind,
    rows: usize,
    pre_tokenizer: Option<&str>,
    out: &mut Metadata,
) -> Result<()> {
    let tokenizer = Tokenizer::load(directory)?;
    let config = read_config(directory)?;
    if kind == Kind::Llama
        && let Some(Value::Bool(adds)) = config.get("add_prefix_space")
    {
        out.set("tokenizer.ggml.add_space_prefix", Entry::Bool(*adds));
    }
    let has_pieces = directory.join(PIECES).exists();
    let is_gpt2 = config.get("tokenizer_class").is_some_and(|class| class == "GPT2Tokenizer");
    let uses_pieces = match kind {
        Kind::Any | Kind::Llama => has_pieces,
        Kind::BytePairs | Kind::Glm => false,
        Kind::SentencePieces => true,
        Kind::Phi => !is_gpt2,
    };
    let mut special = if uses_pieces {
        sentence_pieces::write(directory, kind == Kind::Phi, rows, out)?;
        SpecialTokens::read(directory, Some(rows))?
    } else {
        let name = || match pre_tokenizer {
            Some(name) => Ok(name.to_owned()),
            None => pre_tokenizers::name_of(&tokenizer).map(str::to_owned),
        };
        byte_pairs::write(directory, rows, name, out)?;
        SpecialTokens::read(directory, None)?
    };
    if kind == Kind::Glm {
        for (role, token) in [
            ("eos", "<|endoftext|>"),
            ("eot", "<|user|>"),
            ("unk", "<|endoftext|>"),
            ("bos", "<|endoftext|>"),
        ] {
            match tokenizer.token_id(token) {
                Some(id) => special.set(role, id.into()),
                None => bail!(Malformed, "{} has no token {token}", directory.join(TOKENIZER).display()),
            }
        }
    }
    special.write(out)?;
    if kind == Kind::SentencePieces {
        out.set("tokenizer.ggml.add_space_prefix", Entry::Bool(false));
    }
    if kind == Kind::Llama && rows == VOCABULARY_WITHOUT_BEGINNING {
        out.set("tokenizer.ggml.add_bos_token", Entry::Bool(false));
    }
    if let Ok(template) = ChatTemplate::load(directory, &tokenizer) {
        out.set_text("tokenizer.chat_template", template.source());
    }
    Ok(())
}

/// The content of tokenizer_config.json; empty where there is none.
fn read_config(directory: &Path) -> Result<Value> {
    let path = directory.join(TOKENIZER_CONFIG);
    match path.exists() {
        true => files::read_json(&path, files::TOKENIZER_CONFIG),
        false => Ok(Value::Object(serde_json::Map::new())),
    }
}

/// The content of tokenizer.json.
fn read_tokenizer(directory: &Path) -> Result<Value> {
    files::read_json(&directory.join(TOKENIZER), files::TOKENIZER).context("the tokenizer")
}

/// Whether an added token that is not called special ought to be one, by its text.
fn looks_special(text: &str) -> bool {
    let is_within = |begin: &str, end: &str| text.starts_with(begin) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || is_within("<|", "|>")
        || is_within("<｜", "｜>")
        || is_within("<unused", ">")
}

/// The text of an added token and its type: a control token, or one that users have defined, whose spaces llama.cpp
/// wants as they are.
fn added(text: &str, is_special: bool) -> (String, TokenType) {
    match is_special || looks_special(text) {
        true => (text.to_owned(), TokenType::Control),
        false => (text.replace('▁', " "), TokenType::UserDefined),
    }
}
