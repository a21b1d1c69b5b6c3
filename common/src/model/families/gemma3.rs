//! Gemma 3's text models (`modeling_gemma3.py`): norms of weight 1 + w before and after both branches and of
//! each head, GeGLU, embeddings times √C; most layers have a window, and angles of their own.

use super::Family;
use super::transformer::{HeadNorms, Norms, Transformer};
use crate::kernels::glu::Activation;
use crate::model::config_json::ConfigJson;
use crate::model::{Config, Rope};
use crate::{Result, bail};

/// transformers' defaults.
const HEAD_SIZE: usize = 256;
const QUERY_SCALAR: f64 = 256.0;
const WINDOW: usize = 4096;
const PATTERN: usize = 6;
const GLOBAL_THETA: f64 = 1e6;
const LOCAL_THETA: f64 = 1e4;

pub(super) const FAMILY: Family = Family { model_type: "gemma3_text", models: "Gemma 3", config };

/// The norms around the branches, which Gemma 2 has too.
pub(super) const NORMS: Norms = Norms {
    attention: [Some("input_layernorm"), Some("post_attention_layernorm")],
    feed_forward: [Some("pre_feedforward_layernorm"), Some("post_feedforward_layernorm")],
};

fn config(json: ConfigJson) -> Result<Config> {
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(found) = json.get(key) {
            bail!(Unsupported, "{key} of gemma3_text: null expected, found {found}");
        }
    }
    expect_decoder(json)?;
    let mut transformer = Transformer::read(json)?;
    if json.get("head_dim").is_none() {
        transformer.heads.size = HEAD_SIZE;
    }
    let window = json.optional_count("sliding_window")?.unwrap_or(WINDOW);
    let has_window = sliding(json, transformer.layers)?;
    let (size, bias) = (transformer.heads.size, json.flag("attention_bias"));
    let scalar = json.number("query_pre_attn_scalar").unwrap_or(QUERY_SCALAR);
    let width = transformer.width;
    let positions = json.count("max_position_embeddings")?;
    let ropes = vec![
        Rope::parse_of_layers(json.0, "full_attention", GLOBAL_THETA, size, positions)?,
        Rope::parse_of_layers(json.0, "sliding_attention", LOCAL_THETA, size, positions)?,
    ];
    let mut config = Transformer {
        qkv_bias: bias,
        output_bias: bias,
        head_norms: Some(HeadNorms::EachHead),
        norms: NORMS,
        norm_offset: 1.0,
        activation: Activation::GeluTanh,
        attention_scale: Some(scalar.powf(-0.5) as f32),
        windows: has_window.iter().map(|has_window| has_window.then_some(window)).collect(),
        embedding_scale: (width as f32).sqrt(),
        tied_head: true,
        ..transformer
    }
    .config_with(ropes)?;
    for (layer, has_window) in config.layers.iter_mut().zip(has_window) {
        layer.attention.rope = usize::from(has_window);
    }
    Ok(config)
}

/// Refuses models whose tokens see later ones, such as those that make embeddings of texts.
pub(super) fn expect_decoder(json: ConfigJson) -> Result<()> {
    match json.flag("use_bidirectional_attention") {
        true => bail!(Unsupported, "use_bidirectional_attention: false expected, found true"),
        false => Ok(()),
    }
}

/// Which layers have a window: those that `layer_types` names, or all but every sixth.
fn sliding(json: ConfigJson, layers: usize) -> Result<Vec<bool>> {
    match super::layer_types(json, layers)? {
        Some(types) => Ok(types),
        None => {
            let pattern = json.optional_count("sliding_window_pattern")?.unwrap_or(PATTERN);
            Ok((0..layers).map(|layer| !(layer + 1).is_multiple_of(pattern)).collect())
        }
    }
}
