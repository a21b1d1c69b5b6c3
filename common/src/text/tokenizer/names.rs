//! Reads the names of special tokens, such as `eos_token`, and their texts.

use std::path::Path;

use serde_json::{Map, Value};

use crate::json::kind_of;
use crate::text::files::{TOKENIZER_CONFIG, TextFiles};
use crate::{Result, bail, files};

/// The special tokens that the files of a model name, each a text or a list of texts.
pub(super) fn special_tokens(files: &TextFiles) -> Result<Map<String, Value>> {
    let mut tokens = Map::new();
    for name in ["special_tokens_map.json", TOKENIZER_CONFIG] {
        collect(&files.path(name), &mut tokens)?;
    }
    Ok(tokens)
}

/// Adds the texts of special tokens that a JSON file names. Entries may be objects with `content`.
fn collect(path: &Path, tokens: &mut Map<String, Value>) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let object = match files::read_json(path, files::TOKENIZER_CONFIG)? {
        Value::Object(object) => object,
        other => bail!(Malformed, "{}: an object expected, found {}", path.display(), kind_of(&other)),
    };
    for (name, value) in object {
        if !(name.ends_with("_token") || name == "additional_special_tokens") {
            continue;
        }
        let text = match &value {
            Value::Array(list) => Some(list.iter().filter_map(token_text).collect()),
            other => token_text(other),
        };
        if let Some(text) = text {
            tokens.insert(name, text);
        }
    }
    Ok(())
}

fn token_text(value: &Value) -> Option<Value> {
    match value {
        Value::String(_) => Some(value.clone()),
        Value::Object(object) => object.get("content").filter(|content| content.is_string()).cloned(),
        _ => None,
    }
}
