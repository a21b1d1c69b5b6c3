//! Gemma 2 (`modeling_gemma2.py`): norms of weight 1 + w before and after both branches, GeGLU, embeddings times
//! √C, soft-caps of scores and of logits; every second layer has a window.

use super::gemma3::{NORMS, expect_decoder};
use super::transformer::Transformer;
use super::{Family, layer_types};
use crate::Result;
use crate::kernels::glu::Activation;
use crate::model::Config;
use crate::model::config_json::ConfigJson;

/// transformers' defaults.
const HEAD_SIZE: usize = 256;
const QUERY_SCALAR: f64 = 256.0;
const WINDOW: usize = 4096;
const SCORE_CAP: f64 = 50.0;
const LOGIT_CAP: f64 = 30.0;

pub(super) const FAMILY: Family = Family { model_type: "gemma2", models: "Gemma 2", config };

fn config(json: ConfigJson) -> Result<Config> {
    expect_decoder(json)?;
    let mut transformer = Transformer::read(json)?;
    if json.get("head_dim").is_none() {
        transformer.heads.size = HEAD_SIZE;
    }
    let layers = transformer.layers;
    let window = match json.0.get("sliding_window") {
        None => Some(WINDOW),
        Some(_) => json.optional_count("sliding_window")?,
    };
    let has_window =
        layer_types(json, layers)?.unwrap_or_else(|| (0..layers).map(|layer| layer % 2 == 0).collect());
    let scalar = json.number("query_pre_attn_scalar").unwrap_or(QUERY_SCALAR);
    let (bias, width) = (json.flag("attention_bias"), transformer.width);
    Transformer {
        qkv_bias: bias,
        output_bias: bias,
        norms: NORMS,
        norm_offset: 1.0,
        activation: Activation::GeluTanh,
        attention_scale: Some(scalar.powf(-0.5) as f32),
        softcap: cap(json, "attn_logit_softcapping", SCORE_CAP),
        windows: has_window.into_iter().map(|has_window| window.filter(|_| has_window)).collect(),
        embedding_scale: (width as f32).sqrt(),
        tied_head: true,
        logit_softcap: cap(json, "final_logit_softcapping", LOGIT_CAP),
        ..transformer
    }
    .config()
}

/// A soft-cap; `null` is none.
fn cap(json: ConfigJson, key: &str, default: f64) -> Option<f32> {
    match json.0.get(key) {
        None => Some(default as f32),
        Some(_) => json.number(key).map(|cap| cap as f32),
    }
}
