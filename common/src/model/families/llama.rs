//! Llama 2, 3 and SmolLM2 (`modeling_llama.py`).

use super::Family;
use super::transformer::Transformer;

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    models: "Llama, SmolLM2",
    config: |json| {
        let bias = json.flag("attention_bias");
        let transformer = Transformer::read(json)?;
        let feed_forward_bias = json.flag("mlp_bias");
        Transformer { qkv_bias: bias, output_bias: bias, feed_forward_bias, ..transformer }.config()
    },
};
