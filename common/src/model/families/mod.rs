//! The families of models: each file turns the config.json of one into layers and the names of their
//! weights. Nothing else knows a family's name.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod transformer;

use super::Config;
use super::config_json::ConfigJson;
use crate::{Result, error};

/// A family of models.
pub(super) struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// Models of the family, for people.
    models: &'static str,
    /// Reads a config.json of this family.
    config: fn(ConfigJson) -> Result<Config>,
}

/// Every family, in the order that people are told.
pub(super) static FAMILIES: [Family; 4] = [qwen2::FAMILY, qwen3::FAMILY, llama::FAMILY, mistral::FAMILY];

/// The model that a config.json describes.
pub(super) fn parse(json: ConfigJson) -> Result<Config> {
    let model_type = json.text("model_type").unwrap_or_default();
    match FAMILIES.iter().find(|family| family.model_type == model_type) {
        Some(family) => (family.config)(json),
        None => {
            Err(error!("unknown model_type {model_type:?}").hint(format_args!("supported are {}", names())))
        }
    }
}

/// The families as a sentence names them.
fn names() -> String {
    let name = |family: &Family| match family.models {
        "" => family.model_type.to_string(),
        models => format!("{} ({models})", family.model_type),
    };
    let names: Vec<String> = FAMILIES.iter().map(name).collect();
    match names.split_last() {
        Some((last, first)) => format!("{} and {last}", first.join(", ")),
        None => String::new(),
    }
}
