//! Ministral 3 (`modeling_ministral3.py`): Mistral with YaRN. Beyond the positions that it was trained on first it
//! scales queries with the logarithm of their position, which is not implemented: texts end there.

use serde_json::Value;

use super::Family;
use super::transformer::Transformer;
use crate::model::Config;

/// transformers' default of the size of a head.
const HEAD_SIZE: usize = 128;

pub(super) const FAMILY: Family = Family {
    model_type: "ministral3",
    models: "Ministral 3",
    config: |json| {
        let mut transformer = Transformer::read(json)?;
        if json.get("head_dim").is_none() {
            transformer.heads.size = HEAD_SIZE;
        }
        let window = json.optional_count("sliding_window")?;
        let windows = vec![window; transformer.layers];
        let config = Transformer { windows, epsilon: 1e-5, ..transformer }.config()?;
        let number =
            |key: &str| json.get("rope_parameters").and_then(|rope| rope.get(key)).and_then(Value::as_f64);
        let unscaled = match (number("llama_4_scaling_beta"), number("original_max_position_embeddings")) {
            (Some(beta), Some(trained)) if beta != 0.0 => trained as usize,
            _ => config.max_positions,
        };
        Ok(Config { max_positions: config.max_positions.min(unscaled), ..config })
    },
};
