//! Qwen1.5's and Qwen2's mixtures of experts (`modeling_qwen2_moe.py`): Qwen2 with experts, and one that every token
//! goes to besides.

use super::experts::{Experts, sparse_layers};
use super::qwen2::window;
use super::transformer::Transformer;
use super::{Family, layer_types};

/// transformers' defaults of the width of the shared expert, and of the layers that may have windows.
const SHARED_WIDTH: usize = 5632;
const WINDOW_LAYERS: usize = 28;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2_moe",
    models: "Qwen1.5 and Qwen2 mixtures",
    config: |json| {
        let transformer = Transformer::read(json)?;
        let layers = transformer.layers;
        let width = json.optional_count("moe_intermediate_size")?.unwrap_or(1408);
        let experts = Experts::read(json, layers, ("num_experts", 60), 4, width)?;
        let shared = json.optional_count("shared_expert_intermediate_size")?.unwrap_or(SHARED_WIDTH);
        // Every second layer has the window, other than in Qwen2.
        let window = window(json)?;
        let most = json.number("max_window_layers").unwrap_or(WINDOW_LAYERS as f64) as usize;
        let types = layer_types(json, layers)?;
        let has_window = |layer: usize| match &types {
            Some(types) => types[layer],
            None => layer.is_multiple_of(2) && layer < most,
        };
        let bias = json.get("qkv_bias").is_none() || json.flag("qkv_bias");
        Transformer {
            qkv_bias: bias,
            windows: (0..layers).map(|layer| window.filter(|_| has_window(layer))).collect(),
            experts: Some(Experts { shared: Some(shared), layers: sparse_layers(json, layers)?, ..experts }),
            ..transformer
        }
        .config()
    },
};
