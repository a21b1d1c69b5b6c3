//! The token, or the text, that a template closes an answer with, and how the files of a model name that
//! token as the end of text.
//!
//! A base model that was trained with a chat template ends its answers with another token than the one its
//! files name. Programs that generate stop at the token in the files, so the files must be changed too.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::text::labels::encode_conversation;
use crate::text::{ChatTemplate, Conversation, LabelOptions, Message, Tokenizer};
use crate::{Result, files};

/// The files of a tokenizer that name its special tokens.
const TOKEN_FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
const GENERATION: &str = "generation_config.json";
const END: &str = "eos_token_id";

/// The text that a template writes after an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// A special token.
    Token(u32),
    /// A text for which the tokenizer has no special token.
    Text(String),
}

impl Ending {
    /// The ending of answers in `template`; `None` where the template writes nothing after them.
    pub fn of(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<Self> {
        let messages = vec![Message::new("user", "a"), Message::new("assistant", "b")];
        let conversation = Conversation { messages, tools: Vec::new() };
        let options = LabelOptions::answers(usize::MAX);
        let example = encode_conversation(tokenizer, template, &conversation, &options).ok()?.example;
        let trained = example.tokens.iter().zip(&example.trained).filter(|(_, trained)| **trained);
        let trained: Vec<u32> = trained.map(|(&token, _)| token).collect();
        if let Some(&token) = trained.iter().find(|&&token| tokenizer.is_special(token)) {
            return Some(Self::Token(token));
        }
        let text = tokenizer.decode_with_special(&trained).ok()?;
        let ending = text.split_once('b')?.1.trim();
        (!ending.is_empty()).then(|| Self::Text(ending.to_owned()))
    }
}

/// The special token that begins the turn after an answer, as `<|user|>` in GLM's template, where the template
/// itself closes answers with nothing. A model with such a template ends its answers with it.
pub fn next_turn(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<u32> {
    let messages = [("user", "a"), ("assistant", "b"), ("user", "c")];
    let messages = messages.map(|(role, content)| Message::new(role, content)).to_vec();
    let conversation = Conversation { messages, tools: Vec::new() };
    let options = LabelOptions::answers(usize::MAX);
    let example = encode_conversation(tokenizer, template, &conversation, &options).ok()?.example;
    let last = example.trained.iter().rposition(|&trained| trained)?;
    Some(example.tokens[last]).filter(|&token| tokenizer.is_special(token))
}

/// The warning about a template that writes special tokens which the tokenizer lacks, so that they are
/// trained as ordinary text. `None` where the tokenizer has all of them.
pub fn missing_tokens(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<String> {
    let messages = vec![Message::new("user", "a"), Message::new("assistant", "b")];
    let rendered = template.render(&messages, &[], false).ok()?;
    let mut missing: Vec<&str> = Vec::new();
    let mut rest = rendered.as_str();
    while let Some(begin) = rest.find("<|") {
        rest = &rest[begin..];
        let Some(end) = rest.find("|>") else { break };
        let token = &rest[..end + 2];
        if !token.contains(char::is_whitespace)
            && tokenizer.token_id(token).is_none()
            && !missing.contains(&token)
        {
            missing.push(token);
        }
        rest = &rest[end + 2..];
    }
    if missing.is_empty() {
        return None;
    }
    Some(format!(
        "the template writes {}, for which the tokenizer has no tokens: they stand as the letters of their names. \
         transformers adds tokens (tokenizer.add_special_tokens, then model.resize_token_embeddings); \
         or choose a template of this model with --template",
        missing.join(" and ")
    ))
}

/// Makes `token` the end of text in the tokenizer's files in `directory` that name another.
pub fn name_in_tokenizer(directory: &Path, token: &str) -> Result<()> {
    for file in TOKEN_FILES {
        let path = directory.join(file);
        if !path.exists() {
            continue;
        }
        let mut config: Map<String, Value> = files::read_json(&path, files::CONFIG)?;
        let content = |value: &Value| value.get("content").unwrap_or(value).as_str() == Some(token);
        if config.get("eos_token").is_none_or(content) {
            continue;
        }
        config.insert("eos_token".into(), json!(token));
        write(&path, &config)?;
    }
    Ok(())
}

/// The text of the end-of-text token that the tokenizer's files in `directory` name.
pub fn named_in_tokenizer(directory: &Path) -> Result<Option<String>> {
    let path = directory.join(TOKEN_FILES[0]);
    if !path.exists() {
        return Ok(None);
    }
    let config: Map<String, Value> = files::read_json(&path, files::CONFIG)?;
    let named = config.get("eos_token").map(|value| value.get("content").unwrap_or(value));
    Ok(named.and_then(Value::as_str).map(str::to_owned))
}

/// Makes `id` an end-of-text token in the generation_config.json in `directory`, besides those that the
/// model in `model` names in its own, or else in its config.json. Nothing is written where `id` is among
/// them already.
pub fn name_in_generation(model: &Path, directory: &Path, id: u32) -> Result<()> {
    let read = |file: &str| -> Result<Map<String, Value>> {
        let path = model.join(file);
        if path.exists() { files::read_json(&path, files::CONFIG) } else { Ok(Map::new()) }
    };
    let mut generation = read(GENERATION)?;
    let mut known = ids(&generation);
    if known.is_empty() {
        known = ids(&read("config.json")?);
    }
    if known.contains(&u64::from(id)) {
        return Ok(());
    }
    known.insert(0, id.into());
    generation.insert(END.into(), json!(known));
    write(&directory.join(GENERATION), &generation)
}

/// Makes `id` the end-of-text token in `config`, the content of a config.json, unless it is one already.
pub fn name_in_config(config: &mut Map<String, Value>, id: u32) {
    if !ids(config).contains(&u64::from(id)) {
        config.insert(END.into(), json!(id));
    }
}

/// The end-of-text tokens of a configuration, which has a number or a list.
fn ids(config: &Map<String, Value>) -> Vec<u64> {
    match config.get(END) {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
        Some(id) => id.as_u64().into_iter().collect(),
        None => Vec::new(),
    }
}

fn write(path: &Path, content: &Map<String, Value>) -> Result<()> {
    crate::cli::write_file(path, &(serde_json::to_string_pretty(content)? + "\n"))
}
