//! Finds the chat template of a model.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::named;
use crate::{Result, bail, error, files};

/// The file that holds the template, its text, and the text of the template for tools where there is one.
pub(super) type Found = (PathBuf, String, Option<String>);

/// Finds the template in `chat_template.jinja`, or else in `tokenizer_config.json`, which has a text or a
/// list of named texts, of which transformers knows `default` and `tool_use`.
pub(super) fn find(directory: &Path) -> Result<Found> {
    let path = directory.join("chat_template.jinja");
    if path.exists() {
        let source = files::read_text(&path, files::CONFIG)?;
        let tool_path = directory.join("additional_chat_templates").join("tool_use.jinja");
        let tool_source =
            tool_path.exists().then(|| files::read_text(&tool_path, files::CONFIG)).transpose()?;
        return Ok((path, source, tool_source));
    }
    let path = directory.join("tokenizer_config.json");
    let missing = |what: String| {
        error!("{what}, and there is no chat_template.jinja").hint(format_args!(
            "take the chat (Instruct) variant of the model, or choose a template with --template: {}",
            named::names().join(", ")
        ))
    };
    if !path.exists() {
        return Err(missing(format!("there is no {}", path.display())));
    }
    let config: Value = files::read_json(&path, files::CONFIG)?;
    match config.get("chat_template") {
        Some(Value::String(source)) => Ok((path, source.clone(), None)),
        Some(Value::Array(list)) => {
            let named = |name: &str| {
                let entry = list.iter().find(|entry| entry["name"] == name)?;
                Some(entry["template"].as_str()?.to_owned())
            };
            match named("default") {
                Some(source) => Ok((path, source, named("tool_use"))),
                None => bail!(Malformed, "{}: chat_template has no entry named default", path.display()),
            }
        }
        _ => Err(missing(format!("{} has no chat_template", path.display()))),
    }
}
