//! Qwen3's mixtures of experts (`modeling_qwen3_moe.py`): Qwen3 with experts in place of the feed-forward of all
//! layers, or of those that config.json names.

use super::Family;
use super::experts::{Experts, sparse_layers};
use super::qwen2::window;
use super::qwen3::HEAD_SIZE;
use super::transformer::{HeadNorms, Transformer};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_moe",
    models: "Qwen3 mixtures",
    config: |json| {
        let bias = json.flag("attention_bias");
        let mut transformer = Transformer::read(json)?;
        if json.0.get("head_dim").is_none() {
            transformer.heads.size = HEAD_SIZE;
        }
        let layers = transformer.layers;
        let width = json.optional_count("moe_intermediate_size")?.unwrap_or(768);
        let experts = Experts::read(json, layers, ("num_experts", 128), 8, width)?;
        let window = window(json)?;
        Transformer {
            qkv_bias: bias,
            output_bias: bias,
            head_norms: Some(HeadNorms::EachHead),
            windows: vec![window; layers],
            experts: Some(Experts { layers: sparse_layers(json, layers)?, ..experts }),
            ..transformer
        }
        .config()
    },
};
