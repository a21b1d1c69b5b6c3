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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::model::Config;

    #[test]
    fn texts_end_where_queries_would_be_scaled() {
        let mut json = json!({"model_type": "ministral3", "vocab_size": 96, "hidden_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
            "max_position_embeddings": 262_144, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6,
            "factor": 16.0, "original_max_position_embeddings": 16_384, "llama_4_scaling_beta": 0.1}});
        assert_eq!(Config::parse(&json).unwrap().max_positions, 16_384);
        json["rope_parameters"]["llama_4_scaling_beta"] = json!(0);
        assert_eq!(Config::parse(&json).unwrap().max_positions, 262_144);
    }
}
