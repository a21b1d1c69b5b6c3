//! OLMoE (`modeling_olmoe.py`): Llama's layers with experts in place of the feed-forward, and norms over all query
//! heads together and over all key heads.

use super::Family;
use super::experts::Experts;
use super::transformer::{HeadNorms, Transformer};
use crate::bail;

/// transformers' default of `router_aux_loss_coef`.
const ROUTER_LOSS: f32 = 0.01;

pub(super) const FAMILY: Family = Family {
    model_type: "olmoe",
    models: "OLMoE",
    config: |json| {
        if json.get("clip_qkv").is_some() {
            bail!(Unsupported, "clip_qkv: null expected, clipped queries, keys and values are not supported");
        }
        let bias = json.flag("attention_bias");
        let transformer = Transformer::read(json)?;
        let (layers, width) = (transformer.layers, transformer.feed_forward);
        let mut experts = Experts::read(json, layers, ("num_experts", 64), 8, width)?;
        if json.get("router_aux_loss_coef").is_none() {
            experts.loss = experts.loss.map(|_| ROUTER_LOSS);
        }
        Transformer {
            qkv_bias: bias,
            output_bias: bias,
            head_norms: Some(HeadNorms::AllHeads),
            epsilon: 1e-5,
            experts: Some(experts),
            ..transformer
        }
        .config()
    },
};
