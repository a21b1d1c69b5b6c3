//! Tokenizer, chat template and settings of generation of a GGUF file, as a model's directory has them.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::Keys;
use super::{config_json, pre_tokenizers};
use crate::gguf::{GgufFile, Value as Entry};
use crate::text::TextFiles;
use crate::text::files::{CHAT_TEMPLATE, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG};
use crate::{Context, Result, bail, error};

/// The types of tokens that are written as added ones: control tokens, and those that users have defined.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
/// The type of rows without a token.
const UNUSED: i32 = 5;

/// The text files of the GGUF file `path`, in a temporary directory.
pub fn text_files(path: &Path) -> Result<TextFiles> {
    let directory = tempfile::tempdir().context("no temporary directory for the tokenizer")?;
    write(&GgufFile::open(path)?, directory.path())
        .with_context(|| format!("cannot read the tokenizer of {}", path.display()))?;
    Ok(TextFiles::of_temporary(directory))
}

fn write(file: &GgufFile, directory: &Path) -> Result<()> {
    let (config, _) = config_json(file)?;
    let keys = Keys { file, prefix: "tokenizer.ggml" };
    let write = |name: &str, json: &Value| -> Result<()> {
        Ok(fs_err::write(directory.join(name), serde_json::to_vec(json)?)?)
    };
    write("config.json", &config)?;
    write(GENERATION_CONFIG, &sampling(file))?;
    write(TOKENIZER, &tokenizer(&keys)?)?;
    write(TOKENIZER_CONFIG, &special_tokens(&keys)?)?;
    if let Some(Entry::Text(template)) = file.metadata.get("tokenizer.chat_template") {
        fs_err::write(directory.join(CHAT_TEMPLATE), template)?;
    }
    Ok(())
}

/// The settings of sampling in generation_config.json; nothing says whether to sample.
fn sampling(file: &GgufFile) -> Value {
    let mut settings = Map::new();
    for (key, name) in [
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("temp", "temperature"),
        ("penalty_repeat", "repetition_penalty"),
    ] {
        match file.metadata.get(&format!("general.sampling.{key}")) {
            Some(Entry::I32(number)) => settings.insert(name.into(), json!(number)),
            Some(Entry::F32(number)) => settings.insert(name.into(), json!(number)),
            _ => None,
        };
    }
    settings.into()
}

/// The tokenizer.json of byte-level BPE.
fn tokenizer(keys: &Keys) -> Result<Value> {
    let model = keys.text("model")?;
    if model != "gpt2" {
        return Err(error!(
            "{}: tokenizers of the kind {model:?} are not read from GGUF files",
            keys.file.path().display()
        )
        .hint("byte-level BPE (gpt2) is; read the model's directory instead"));
    }
    let (tokens, types) = (keys.texts("tokens")?, keys.numbers("token_type")?);
    if tokens.len() != types.len() {
        bail!(Malformed, "{} tokens have {} types", tokens.len(), types.len());
    }
    let cut = pre_tokenizers::named(keys.text("pre")?)?;
    let (mut vocabulary, mut added) = (Map::new(), Vec::new());
    for (id, (text, &kind)) in tokens.iter().zip(types).enumerate().filter(|(_, (_, kind))| **kind != UNUSED)
    {
        vocabulary.insert(text.clone(), id.into());
        if [CONTROL, USER_DEFINED].contains(&kind) {
            added.push(json!({
                "id": id, "content": text, "special": kind == CONTROL, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }));
        }
    }
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": cut.normalizer,
        "pre_tokenizer": cut.steps,
        "post_processor": post_processor(keys, tokens)?,
        "decoder": bytes,
        "model": {
            "type": "BPE", "fuse_unk": false, "byte_fallback": false, "ignore_merges": cut.ignores_merges,
            "vocab": vocabulary, "merges": keys.texts("merges")?,
        },
    }))
}

/// What puts the first token in front of a text, where the file says so.
fn post_processor(keys: &Keys, tokens: &[String]) -> Result<Value> {
    // llama.cpp puts Llama 3's in front of every text.
    let adds = keys.flag("add_bos_token").unwrap_or(keys.text("pre")? == "llama-bpe");
    let Some((id, text)) = token(keys, "bos_token_id", tokens).filter(|_| adds) else {
        return Ok(Value::Null);
    };
    let part = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let first = json!({"SpecialToken": {"id": text, "type_id": 0}});
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [first, part("A")],
        "pair": [first, part("A"), part("B")],
        "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
    }))
}

/// The names of special tokens in tokenizer_config.json.
fn special_tokens(keys: &Keys) -> Result<Value> {
    let tokens = keys.texts("tokens")?;
    let mut names = Map::new();
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        if let Some((_, text)) = token(keys, &format!("{key}_token_id"), tokens) {
            names.insert(format!("{name}_token"), text.into());
        }
    }
    Ok(names.into())
}

/// The id and the text of the token that a key names.
fn token<'a>(keys: &Keys, key: &str, tokens: &'a [String]) -> Option<(u32, &'a str)> {
    let id = keys.count(key).ok()?;
    Some((id, tokens.get(id as usize)?))
}
