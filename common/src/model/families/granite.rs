//! Granite 3 (`modeling_granite.py`): Llama with multipliers of the embeddings, of the scores, of what the
//! branches add, and of the logits.

use super::Family;
use super::transformer::Transformer;

pub(super) const FAMILY: Family = Family {
    model_type: "granite",
    models: "Granite 3",
    config: |json| {
        let bias = json.flag("attention_bias");
        let number = |key: &str| json.number(key).unwrap_or(1.0) as f32;
        let transformer = Transformer::read(json)?;
        Transformer {
            qkv_bias: bias,
            output_bias: bias,
            feed_forward_bias: json.flag("mlp_bias"),
            attention_scale: Some(number("attention_multiplier")),
            residual_multiplier: number("residual_multiplier"),
            input_scale: number("embedding_multiplier"),
            logit_scale: 1.0 / number("logits_scaling"),
            ..transformer
        }
        .config()
    },
};
