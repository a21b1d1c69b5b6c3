//! Phi-3, Phi-4 and Phi-4-mini (`modeling_phi3.py`): query, key and value are one matrix and gate and up
//! another, on which adapters sit; a part of each head rotates; LongRoPE.

use super::Family;
use super::transformer::Transformer;
use crate::bail;

pub(super) const FAMILY: Family = Family {
    model_type: "phi3",
    models: "Phi-3, Phi-4",
    config: |json| {
        let transformer = Transformer::read(json)?;
        let scaling = json.get("rope_scaling").or(json.get("rope_parameters"));
        let kind = scaling.and_then(|scaling| scaling.get("rope_type").or(scaling.get("type")));
        if let Some(other) =
            kind.filter(|kind| !["default", "longrope", "su"].iter().any(|name| kind == name))
        {
            bail!(Unsupported, "rope_type of phi3: longrope expected, found {other}");
        }
        let window = json.optional_count("sliding_window")?;
        Transformer {
            fused_qkv: true,
            fused_gate_up: true,
            rotary_share: Some(1.0),
            windows: vec![window; transformer.layers],
            epsilon: 1e-5,
            ..transformer
        }
        .config()
    },
};
