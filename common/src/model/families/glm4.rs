//! GLM-4-0414 (`modeling_glm4.py`): norms before and after both branches, half of each head rotates in pairs of
//! neighbours, gate and up are one matrix.

use super::Family;
use super::transformer::{Norms, Transformer};
use crate::kernels::rope::Pairs;

/// transformers' default of the size of a head.
const HEAD_SIZE: usize = 128;

pub(super) const FAMILY: Family = Family {
    model_type: "glm4",
    models: "GLM-4-0414",
    config: |json| {
        let mut transformer = Transformer::read(json)?;
        if json.0.get("head_dim").is_none() {
            transformer.heads.size = HEAD_SIZE;
        }
        Transformer {
            qkv_bias: json.get("attention_bias").is_none_or(|bias| bias == true),
            fused_gate_up: true,
            norms: Norms {
                attention: [Some("input_layernorm"), Some("post_self_attn_layernorm")],
                feed_forward: [Some("post_attention_layernorm"), Some("post_mlp_layernorm")],
            },
            pairs: Pairs::Neighbours,
            rotary_share: Some(0.5),
            epsilon: 1.5625e-7,
            ..transformer
        }
        .config()
    },
};
