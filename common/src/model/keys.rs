//! The keys of config.json that are read, and the values that they may have. A value of another type or size
//! is an error, never a default: the file comes from outside, and it decides how much memory is taken.

use serde_json::{Map, Value};

use super::composite::text_config;
use super::families::FAMILIES;
use crate::json::kind_of;
use crate::{Context, Result, bail};

/// What a value may be. Every key may also be absent or null.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Text,
    Flag,
    /// A whole number of things from 1 on.
    Count {
        most: u64,
    },
    /// A whole number from 0 on.
    Whole,
    /// A number that is not negative, as an f32.
    NotNegative,
    /// A number above 0, as an f32.
    Positive,
    Texts,
    Wholes,
    Positives,
    Object(&'static [(&'static str, Expected)]),
}

/// Sizes are bounded generously: products of three of them fit 64 bits.
const KEYS: &[(&str, Expected)] = &[
    ("model_type", Expected::Text),
    ("hidden_act", Expected::Text),
    ("hidden_activation", Expected::Text),
    ("vocab_size", Expected::Count { most: 1 << 24 }),
    ("hidden_size", Expected::Count { most: 1 << 20 }),
    ("intermediate_size", Expected::Count { most: 1 << 22 }),
    ("moe_intermediate_size", Expected::Count { most: 1 << 22 }),
    ("shared_expert_intermediate_size", Expected::Count { most: 1 << 22 }),
    ("num_experts", Expected::Count { most: 1 << 16 }),
    ("num_local_experts", Expected::Count { most: 1 << 16 }),
    ("num_experts_per_tok", Expected::Count { most: 1 << 16 }),
    ("norm_topk_prob", Expected::Flag),
    ("decoder_sparse_step", Expected::Count { most: 1 << 12 }),
    ("mlp_only_layers", Expected::Wholes),
    ("output_router_logits", Expected::Flag),
    ("router_aux_loss_coef", Expected::NotNegative),
    ("router_jitter_noise", Expected::NotNegative),
    ("qkv_bias", Expected::Flag),
    ("num_hidden_layers", Expected::Count { most: 1 << 12 }),
    ("num_attention_heads", Expected::Count { most: 1 << 16 }),
    ("num_key_value_heads", Expected::Count { most: 1 << 16 }),
    ("head_dim", Expected::Count { most: 1 << 14 }),
    ("max_position_embeddings", Expected::Count { most: i32::MAX as u64 }),
    ("sliding_window", Expected::Whole),
    ("max_window_layers", Expected::Whole),
    ("layer_types", Expected::Texts),
    ("use_sliding_window", Expected::Flag),
    ("sliding_window_pattern", Expected::Count { most: 1 << 12 }),
    ("rms_norm_eps", Expected::NotNegative),
    ("tie_word_embeddings", Expected::Flag),
    ("attention_bias", Expected::Flag),
    ("mlp_bias", Expected::Flag),
    ("attention_multiplier", Expected::Positive),
    ("embedding_multiplier", Expected::Positive),
    ("residual_multiplier", Expected::Positive),
    ("logits_scaling", Expected::Positive),
    ("query_pre_attn_scalar", Expected::Positive),
    ("attn_logit_softcapping", Expected::Positive),
    ("final_logit_softcapping", Expected::Positive),
    ("use_bidirectional_attention", Expected::Flag),
    ("partial_rotary_factor", Expected::Positive),
    ("original_max_position_embeddings", Expected::Positive),
    ("rope_local_base_freq", Expected::Positive),
    ("rope_theta", Expected::Positive),
    ("rope_scaling", Expected::Object(ROPE)),
    ("rope_parameters", Expected::Object(ROPE)),
    ("dtype", Expected::Text),
    ("torch_dtype", Expected::Text),
    ("quantization_config", Expected::Object(QUANTIZATION)),
];

const ROPE: &[(&str, Expected)] = &[
    ("rope_type", Expected::Text),
    ("type", Expected::Text),
    ("rope_theta", Expected::Positive),
    ("factor", Expected::Positive),
    ("low_freq_factor", Expected::Positive),
    ("high_freq_factor", Expected::Positive),
    ("original_max_position_embeddings", Expected::Positive),
    ("partial_rotary_factor", Expected::Positive),
    ("attention_factor", Expected::Positive),
    ("beta_fast", Expected::Positive),
    ("beta_slow", Expected::Positive),
    ("mscale", Expected::NotNegative),
    ("mscale_all_dim", Expected::NotNegative),
    ("truncate", Expected::Flag),
    ("llama_4_scaling_beta", Expected::NotNegative),
    ("short_factor", Expected::Positives),
    ("long_factor", Expected::Positives),
];

const QUANTIZATION: &[(&str, Expected)] = &[
    ("quant_method", Expected::Text),
    ("load_in_4bit", Expected::Flag),
    ("load_in_8bit", Expected::Flag),
    ("bnb_4bit_quant_type", Expected::Text),
    ("bnb_4bit_use_double_quant", Expected::Flag),
    ("bnb_4bit_compute_dtype", Expected::Text),
    ("bnb_4bit_quant_storage", Expected::Text),
    ("llm_int8_skip_modules", Expected::Texts),
];

/// Checks the type and the size of every value that is read.
pub(super) fn check_keys(json: &Value) -> Result<()> {
    check(object(json)?, KEYS)
}

/// Checks a config.json for a tool that handles models of any family: those of other families may give
/// the keys another meaning.
pub fn check_config(json: &Value) -> Result<()> {
    let map = object(json)?;
    check(map, &KEYS[..1])?;
    let text = text_config(json)?;
    let map = object(&text)?;
    match map.get("model_type").and_then(Value::as_str) {
        Some(name) if FAMILIES.iter().any(|family| family.model_type == name) => check(map, KEYS),
        _ => Ok(()),
    }
}

fn object(json: &Value) -> Result<&Map<String, Value>> {
    match json {
        Value::Object(map) => Ok(map),
        _ => bail!(Malformed, "an object of keys and values expected, found {}", kind_of(json)),
    }
}

fn check(map: &Map<String, Value>, keys: &[(&str, Expected)]) -> Result<()> {
    for (key, expected) in keys {
        match map.get(*key) {
            None | Some(Value::Null) => {}
            Some(value) => expected.check(value).with_context(|| key.to_string())?,
        }
    }
    Ok(())
}

impl Expected {
    fn check(self, value: &Value) -> Result<()> {
        if let (Self::Object(keys), Value::Object(map)) = (self, value) {
            return check(map, keys);
        }
        if self.fits(value) {
            return Ok(());
        }
        let what = match self {
            Self::Text => "a text",
            Self::Flag => "true or false",
            Self::Count { most } => {
                bail!(Malformed, "a positive whole number up to {most} expected, found {}", shown(value))
            }
            Self::Whole => "a whole number",
            Self::NotNegative => "a number that is not negative",
            Self::Positive => "a number above 0",
            Self::Texts => "a list of texts",
            Self::Wholes => "a list of whole numbers",
            Self::Positives => "a list of numbers above 0",
            Self::Object(_) => "an object",
        };
        bail!(Malformed, "{what} expected, found {}", shown(value))
    }

    fn fits(self, value: &Value) -> bool {
        let number = || value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
        let all = |expected: Self| {
            value.as_array().is_some_and(|values| values.iter().all(|value| expected.fits(value)))
        };
        match self {
            Self::Text => value.is_string(),
            Self::Flag => value.is_boolean(),
            Self::Count { most } => value.as_u64().is_some_and(|count| (1..=most).contains(&count)),
            Self::Whole => value.is_u64(),
            Self::NotNegative => number().is_some_and(|number| number >= 0.0),
            Self::Positive => number().is_some_and(|number| number > 0.0),
            Self::Texts => all(Self::Text),
            Self::Wholes => all(Self::Whole),
            Self::Positives => all(Self::Positive),
            Self::Object(_) => false,
        }
    }
}

/// A value in a message: itself where it is short.
fn shown(value: &Value) -> String {
    let is_short = match value {
        Value::String(text) => text.len() < 80,
        other => !other.is_array() && !other.is_object(),
    };
    if is_short { value.to_string() } else { kind_of(value).into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_another_type_or_size_are_refused_by_their_key() {
        for (key, value) in [
            ("model_type", json!(5)),
            ("hidden_act", json!(["silu"])),
            ("head_dim", json!(2_147_483_646)),
            ("num_hidden_layers", json!(1_000_000_000_000_u64)),
            ("vocab_size", json!(1_u64 << 40)),
            ("num_attention_heads", json!(2.5)),
            ("hidden_size", json!("64")),
            ("intermediate_size", json!(true)),
            ("max_position_embeddings", json!(0)),
            ("sliding_window", json!("4096")),
            ("tie_word_embeddings", json!("yes")),
            ("attention_bias", json!(1)),
            ("rms_norm_eps", json!("1e-5")),
            ("rms_norm_eps", json!(-1.0)),
            ("rope_theta", json!(0)),
            ("rope_theta", json!(1e300)),
            ("rope_scaling", json!([1, 2])),
            ("rope_scaling", json!({"factor": 0.0})),
            ("rope_parameters", json!({"rope_type": 7})),
            ("rope_scaling", json!({"long_factor": [1.0, "x"]})),
            ("layer_types", json!({"0": "full_attention"})),
            ("quantization_config", json!("nf4")),
            ("quantization_config", json!({"quant_method": 4})),
        ] {
            let error = check_keys(&json!({key: value.clone()})).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key}: ")) && error.contains("expected"), "{value}: {error}");
        }
        for value in [json!([]), json!(null), json!("x"), json!(1)] {
            assert!(check_keys(&value).unwrap_err().to_string().contains("an object of keys and values"));
        }
    }

    #[test]
    fn other_families_have_keys_of_their_own() {
        check_config(&json!({"model_type": "step", "rope_theta": [1e4, 1e6]})).unwrap();
        for wrong in
            [json!({"model_type": []}), json!({"model_type": "llama", "rope_theta": [1e4]}), json!([])]
        {
            check_config(&wrong).unwrap_err();
        }
    }

    #[test]
    fn what_is_absent_or_null_or_unknown_is_no_fault() {
        let nulls: Map<String, Value> = KEYS.iter().map(|(key, _)| (key.to_string(), Value::Null)).collect();
        check_keys(&Value::Object(nulls)).unwrap();
        check_keys(&json!({"sliding_window": 0, "rms_norm_eps": 0, "_flash_attn_2_enabled": [{}]})).unwrap();
    }
}
