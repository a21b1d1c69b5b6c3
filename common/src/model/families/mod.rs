//! The families of models: each file turns the config.json of one into layers and the names of their
//! weights. Nothing else knows a family's name.

mod experts;
mod gemma2;
mod gemma3;
mod glm4;
mod granite;
mod llama;
mod ministral3;
mod mistral;
mod mixtral;
mod olmo2;
mod olmoe;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod transformer;
mod unsupported;

use serde_json::Value;

pub use transformer::LINEAR_LAYERS;

use super::Config;
use super::config_json::ConfigJson;
use crate::{Result, bail};

/// A family of models.
pub(super) struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// Models of the family, for messages.
    models: &'static str,
    /// Reads a config.json of this family.
    config: fn(ConfigJson) -> Result<Config>,
}

/// Every family, in the order of messages.
pub(super) static FAMILIES: [Family; 15] = [
    qwen2::FAMILY,
    qwen3::FAMILY,
    llama::FAMILY,
    mistral::FAMILY,
    ministral3::FAMILY,
    gemma2::FAMILY,
    gemma3::FAMILY,
    phi3::FAMILY,
    glm4::FAMILY,
    granite::FAMILY,
    olmo2::FAMILY,
    qwen3_moe::FAMILY,
    qwen2_moe::FAMILY,
    mixtral::FAMILY,
    olmoe::FAMILY,
];

/// The model that a config.json describes.
pub(super) fn parse(json: ConfigJson) -> Result<Config> {
    let model_type = json.text("model_type").unwrap_or_default();
    match FAMILIES.iter().find(|family| family.model_type == model_type) {
        Some(family) => (family.config)(json),
        None => Err(unsupported::error(json, model_type)),
    }
}

/// Which layers have a sliding window, where `layer_types` says it.
fn layer_types(json: ConfigJson, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = json.get("layer_types").and_then(Value::as_array) else { return Ok(None) };
    if types.len() != layers {
        bail!(Malformed, "layer_types: {layers} layers expected, found {}", types.len());
    }
    let is_sliding = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => bail!(Unsupported, "layer_types: full_attention or sliding_attention expected, found {kind}"),
    };
    types.iter().map(is_sliding).collect::<Result<_>>().map(Some)
}
