//! Qwen2 and Qwen2.5 (`modeling_qwen2.py`): biases of query, key and value, and windows in the upper layers
//! of models that say so.

use serde_json::Value;

use super::transformer::Transformer;
use super::{Family, layer_types};
use crate::Result;
use crate::model::config_json::ConfigJson;

/// transformers' defaults where config.json names windows and not these.
const WINDOW: usize = 4096;
const FIRST_LAYER: u64 = 28;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    models: "Qwen2, Qwen2.5",
    config: |json| {
        let transformer = Transformer::read(json)?;
        let windows = windows(json, transformer.layers)?;
        Transformer { qkv_bias: true, windows, ..transformer }.config()
    },
};

/// The window of each layer: none unless `use_sliding_window` is set, then that of the layers that
/// `layer_types` calls sliding, or without such a list that of the layers from `max_window_layers` on.
pub(super) fn windows(json: ConfigJson, layers: usize) -> Result<Vec<Option<usize>>> {
    let window = window(json)?;
    if let Some(types) = layer_types(json, layers)? {
        return Ok(types.iter().map(|is_sliding| window.filter(|_| *is_sliding)).collect());
    }
    let first = json.get("max_window_layers").and_then(Value::as_u64).unwrap_or(FIRST_LAYER);
    Ok((0..layers as u64).map(|layer| window.filter(|_| layer >= first)).collect())
}

/// The window of the layers that have one; none unless `use_sliding_window` is set.
pub(super) fn window(json: ConfigJson) -> Result<Option<usize>> {
    match json.0.get("sliding_window") {
        _ if !json.flag("use_sliding_window") => Ok(None),
        None => Ok(Some(WINDOW)),
        Some(_) => json.optional_count("sliding_window"),
    }
}
