//! Byte-level BPE: tokens and merges of tokenizer.json.

use std::path::Path;

use common::gguf::{Metadata, Value as Entry};
use common::text::files::TOKENIZER;
use common::{Result, bail, error};
use serde_json::Value;

use super::{TokenType, Tokens, added, read_tokenizer};

/// Writes the tokens and merges; `pre_tokenizer` gives the name of the way to cut texts.
pub(super) fn write(
    directory: &Path,
    rows: usize,
    pre_tokenizer: impl FnOnce() -> Result<String>,
    out: &mut Metadata,
) -> Result<()> {
    let json = read_tokenizer(directory)?;
    let model = &json["model"];
    let is_of_bytes = model["type"] == "BPE" && model["byte_fallback"] != true;
    let Some(vocabulary) = model["vocab"].as_object().filter(|_| is_of_bytes) else {
        return Err(error!("{} is not byte-level BPE", directory.join(TOKENIZER).display()).hint(
            "llama.cpp reads SentencePiece from tokenizer.model: fetch the original model with that file, and put it \
             beside tokenizer.json",
        ));
    };
    let mut tokens = Tokens::unused(rows);
    let id_of = |id: &Value| -> Result<u64> {
        match id.as_u64() {
            Some(id) => Ok(id),
            None => bail!(Malformed, "{TOKENIZER}: an id expected, found {id}"),
        }
    };
    for (text, id) in vocabulary {
        tokens.set(id_of(id)?, text.clone(), TokenType::Normal)?;
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let text = token["content"].as_str().unwrap_or_default();
        let (text, kind) = added(text, token["special"] == true);
        tokens.set(id_of(&token["id"])?, text, kind)?;
    }
    out.set_text("tokenizer.ggml.model", "gpt2");
    out.set_text("tokenizer.ggml.pre", pre_tokenizer()?);
    tokens.write(out);
    let merges = model["merges"].as_array().into_iter().flatten().map(merge).collect::<Result<Vec<_>>>()?;
    if !merges.is_empty() {
        out.set("tokenizer.ggml.merges", Entry::Texts(merges));
    }
    Ok(())
}

/// A merge as a text of two parts: it is one, or a list of two, whose spaces are written as byte-level BPE does.
fn merge(merge: &Value) -> Result<String> {
    let part = |part: &Value| part.as_str().map(|part| part.replace(' ', "Ġ"));
    match merge {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) if parts.len() == 2 => match (part(&parts[0]), part(&parts[1])) {
            (Some(one), Some(other)) => Ok(format!("{one} {other}")),
            _ => bail!(Malformed, "{TOKENIZER}: a merge of two texts expected, found {merge}"),
        },
        other => bail!(Malformed, "{TOKENIZER}: a merge of two texts expected, found {other}"),
    }
}
