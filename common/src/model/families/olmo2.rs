//! OLMo 2 (`modeling_olmo2.py`): norms after attention and feed-forward and none before, and norms of all query
//! heads together and of all key heads together.

use super::Family;
use super::transformer::{HeadNorms, Norms, Transformer};

pub(super) const FAMILY: Family = Family {
    model_type: "olmo2",
    models: "OLMo 2",
    config: |json| {
        let bias = json.flag("attention_bias");
        let transformer = Transformer::read(json)?;
        Transformer {
            qkv_bias: bias,
            output_bias: bias,
            head_norms: Some(HeadNorms::AllHeads),
            norms: Norms {
                attention: [None, Some("post_attention_layernorm")],
                feed_forward: [None, Some("post_feedforward_layernorm")],
            },
            epsilon: 1e-5,
            ..transformer
        }
        .config()
    },
};
