//! Tokenizer, chat template and settings of generation of a GGUF file, as a model's directory has them.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::{config_json, pre_tokenizers};
use crate::gguf::{GgufFile, Value as Entry};
use crate::text::TextFiles;
use crate::text::files::{CHAT_TEMPLATE, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG};
use crate::{Context, Result, bail, error};

/// The types of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Most bytes of a piece, all of whose splits are looked at.
const LONGEST_PIECE: usize = 1024;

/// The text files of the GGUF file `path`, in a temporary directory.
pub fn text_files(path: &Path) -> Result<TextFiles> {
    let directory = tempfile::tempdir().context("no temporary directory for the tokenizer")?;
    write(&GgufFile::open(path)?, directory.path())
        .with_context(|| format!("cannot read the tokenizer of {}", path.display()))?;
    Ok(TextFiles::of_temporary(directory))
}

/// Writes the text files of a GGUF file into a directory.
pub(super) fn write(file: &GgufFile, directory: &Path) -> Result<()> {
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

/// The tokenizer.json.
fn tokenizer(keys: &Keys) -> Result<Value> {
    let (tokens, types) = (keys.texts("tokens")?, keys.numbers("token_type")?);
    if tokens.len() != types.len() {
        bail!(Malformed, "{} tokens have {} types", tokens.len(), types.len());
    }
    let (mut vocabulary, mut added) = (Map::new(), Vec::new());
    for (id, (text, &kind)) in tokens.iter().zip(types).enumerate().filter(|(_, (_, kind))| **kind != UNUSED)
    {
        vocabulary.insert(text.clone(), id.into());
        if [UNKNOWN, CONTROL, USER_DEFINED].contains(&kind) {
            added.push(json!({
                "id": id, "content": text, "special": kind != USER_DEFINED, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }));
        }
    }
    let parts = match keys.text("model")? {
        "gpt2" => byte_pairs(keys)?,
        "llama" => sentence_pieces(keys, tokens, types)?,
        other => {
            let path = keys.file.path().display();
            return Err(error!("{path}: tokenizers of the kind {other:?} are not read from GGUF files")
                .hint(
                    "byte-level BPE (gpt2) and SentencePiece (llama) are; read the model's directory instead",
                ));
        }
    };
    let Parts { normalizer, pre_tokenizer, decoder, mut model } = parts;
    model["type"] = "BPE".into();
    model["vocab"] = vocabulary.into();
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(keys, tokens)?,
        "decoder": decoder,
        "model": model,
    }))
}

/// The parts of tokenizer.json in which the kinds of tokenizers differ.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}

/// Byte-level BPE.
fn byte_pairs(keys: &Keys) -> Result<Parts> {
    let cut = pre_tokenizers::named(keys.text("pre")?)?;
    Ok(Parts {
        normalizer: cut.normalizer,
        pre_tokenizer: cut.steps,
        decoder: json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}),
        model: json!({
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": cut.ignores_merges, "merges": keys.texts("merges")?,
        }),
    })
}

/// SentencePiece, as transformers writes it: BPE over whole texts whose spaces are letters, with the bytes of
/// characters that no piece has.
fn sentence_pieces(keys: &Keys, tokens: &[String], types: &[i32]) -> Result<Parts> {
    let replace =
        |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers = vec![replace(" ", "▁")];
    let mut decoders = vec![replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if keys.flag("add_space_prefix").unwrap_or(true) {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = token(keys, "unknown_token_id", tokens).map(|(_, text)| text);
    Ok(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "fuse_unk": true, "byte_fallback": types.contains(&BYTE), "unk_token": unknown,
            "merges": merges(tokens, keys.floats("scores")?, types)?,
        }),
    })
}

/// The merges that make pieces of shorter ones, the piece with the highest score first.
fn merges(tokens: &[String], scores: &[f32], types: &[i32]) -> Result<Vec<[String; 2]>> {
    if scores.len() != tokens.len() {
        bail!(Malformed, "{} tokens have {} scores", tokens.len(), scores.len());
    }
    let pieces =
        || tokens.iter().zip(scores).zip(types).enumerate().filter(|(_, (_, kind))| **kind == NORMAL);
    let ids: HashMap<&str, usize> = pieces().map(|(id, ((text, _), _))| (text.as_str(), id)).collect();
    let mut found = Vec::new();
    for (_, ((text, score), _)) in pieces() {
        if text.len() > LONGEST_PIECE {
            bail!(TooLarge, "a piece of {} bytes, expected at most {LONGEST_PIECE}", text.len());
        }
        let splits = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let known = splits.filter_map(|(one, other)| Some((ids.get(one)?, ids.get(other)?, one, other)));
        let mut known: Vec<_> = known.collect();
        known.sort_unstable();
        found.extend(known.into_iter().map(|(_, _, one, other)| (*score, one, other)));
    }
    let length = |text: &str| std::cmp::Reverse(text.chars().count());
    found.sort_by(|one, other| {
        let lengths = (length(one.1), length(one.2)).cmp(&(length(other.1), length(other.2)));
        other.0.total_cmp(&one.0).then(lengths)
    });
    Ok(found.into_iter().map(|(_, one, other)| [one.to_owned(), other.to_owned()]).collect())
}

/// What puts the first token in front of a text, where the file says so.
fn post_processor(keys: &Keys, tokens: &[String]) -> Result<Value> {
    // llama.cpp puts those of Llama 3 and Mistral Nemo in front of every text.
    let adds = keys.flag("add_bos_token").unwrap_or(["llama-bpe", "tekken"].contains(&keys.text("pre")?));
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
