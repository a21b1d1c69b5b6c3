//! Qwen2 and Qwen2.5 (`modeling_qwen2.py`): biases of query, key and value, and windows in the upper layers
//! of models that say so.

use super::Family;
use super::transformer::Transformer;
use crate::model::config_json::ConfigJson;
use crate::{Result, bail};

/// transformers' defaults where config.json names windows and not these.
const WINDOW: usize = 4096;
const FIRST_LAYER: u64 = 28;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    models: "Qwen2, Qwen2.5",
    config: |json| {
        let transformer = Transformer::read(json)?.with_biases(true, false, false);
        let windows = windows(json, transformer.layers)?;
        transformer.with_windows(|layer| windows[layer]).config()
    },
};

/// The window of each layer: none unless `use_sliding_window` is set, then that of the layers that
/// `layer_types` calls sliding, or without such a list that of the layers from `max_window_layers` on.
pub(super) fn windows(json: ConfigJson, layers: usize) -> Result<Vec<Option<usize>>> {
    let window = match json.0.get("sliding_window") {
        _ if !json.flag("use_sliding_window") => return Ok(vec![None; layers]),
        None => Some(WINDOW),
        Some(_) => json.optional_count("sliding_window")?,
    };
    let Some(types) = json.get("layer_types").and_then(serde_json::Value::as_array) else {
        let first = json.get("max_window_layers").and_then(serde_json::Value::as_u64).unwrap_or(FIRST_LAYER);
        return Ok((0..layers as u64).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    if types.len() != layers {
        bail!(Malformed, "layer_types: {layers} layers expected, found {}", types.len());
    }
    let window_of = |kind: &serde_json::Value| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") => Ok(window),
        _ => bail!(Unsupported, "layer_types: full_attention or sliding_attention expected, found {kind}"),
    };
    types.iter().map(window_of).collect()
}
