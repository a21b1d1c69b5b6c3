//! What config.json says about a model. Families differ by data, not by code.

use std::path::Path;

use serde_json::Value;

use crate::kernels::attention::Heads;
use crate::{Context, Result, error};

/// The shape of a decoder and the constants of its operations.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `model_type`: qwen2, qwen3, llama (Llama and SmolLM2) or mistral.
    pub family: String,
    /// V
    pub vocabulary: usize,
    /// C
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// H, K and D.
    pub heads: Heads,
    /// F
    pub feed_forward: usize,
    /// Added to the mean of squares in RMS norms.
    pub epsilon: f32,
    /// Angle a head's element pair turns per position, [D/2].
    pub frequencies: Vec<f32>,
    /// Whether the head shares the embedding table.
    pub tied_head: bool,
    /// Biases of query, key and value.
    pub qkv_bias: bool,
    /// Bias of the attention's output.
    pub output_bias: bool,
    /// Biases of gate, up and down.
    pub mlp_bias: bool,
    /// RMS norms of query and key heads (Qwen3).
    pub head_norm: bool,
    /// Positions the model was trained for.
    pub max_positions: usize,
}

impl Config {
    /// Reads `directory/config.json`.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let text = fs_err::read_to_string(&path)
            .hint("a model directory holds config.json, model.safetensors and tokenizer.json")?;
        let json: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        Self::parse(&json).with_context(|| path.display().to_string())
    }

    /// Reads the values of a config.json.
    pub fn parse(json: &Value) -> Result<Self> {
        let family = json.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let flag = |key: &str| json.get(key).and_then(Value::as_bool).unwrap_or(false);
        let (qkv_bias, output_bias, head_norm) = match family.as_str() {
            "qwen2" => (true, false, false),
            "qwen3" => (flag("attention_bias"), flag("attention_bias"), true),
            "llama" => (flag("attention_bias"), flag("attention_bias"), false),
            "mistral" => (false, false, false),
            _ => {
                return Err(error!("unknown model_type {family:?}").hint(
                    "supported are qwen2 (Qwen2, Qwen2.5), qwen3, llama (Llama, SmolLM2) and mistral",
                ));
            }
        };
        match json.get("hidden_act").and_then(Value::as_str) {
            None | Some("silu") => {}
            Some(other) => return Err(error!(Unsupported, "hidden_act: silu expected, found {other:?}")),
        }
        let width = count(json, "hidden_size")?;
        let queries = count(json, "num_attention_heads")?;
        let keys = match json.get("num_key_value_heads") {
            None | Some(Value::Null) => queries,
            Some(_) => count(json, "num_key_value_heads")?,
        };
        let size = match json.get("head_dim") {
            None | Some(Value::Null) => width / queries,
            Some(_) => count(json, "head_dim")?,
        };
        if !queries.is_multiple_of(keys) || !size.is_multiple_of(2) || size == 0 {
            return Err(error!(
                Malformed,
                "{queries} query heads, {keys} key heads of size {size} do not fit together"
            ));
        }
        let mut max_positions = count(json, "max_position_embeddings")?;
        if let Some(window) = json.get("sliding_window").and_then(Value::as_u64) {
            // Qwen2 names a window that it does not use.
            let used = json.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(true);
            if used {
                max_positions = max_positions.min(usize::try_from(window).unwrap_or(usize::MAX));
            }
        }
        Ok(Self {
            vocabulary: count(json, "vocab_size")?,
            width,
            layers: count(json, "num_hidden_layers")?,
            heads: Heads { queries, keys, size },
            feed_forward: count(json, "intermediate_size")?,
            epsilon: number(json, "rms_norm_eps").unwrap_or(1e-6) as f32,
            frequencies: frequencies(json, size)?,
            tied_head: flag("tie_word_embeddings"),
            mlp_bias: family == "llama" && flag("mlp_bias"),
            qkv_bias,
            output_bias,
            head_norm,
            max_positions,
            family,
        })
    }
}

fn number(json: &Value, key: &str) -> Option<f64> {
    json.get(key).and_then(Value::as_f64)
}

/// A positive number of things, small enough that products of two never overflow.
fn count(json: &Value, key: &str) -> Result<usize> {
    match json.get(key).and_then(Value::as_u64) {
        Some(value @ 1..=0x7fff_ffff) => Ok(value as usize),
        _ => Err(match json.get(key) {
            None => error!(Malformed, "{key} is missing"),
            Some(found) => error!(Malformed, "{key}: a positive whole number expected, found {found}"),
        }),
    }
}

/// Rotary frequencies [D/2] in f32, as transformers computes them, with the scaling the file asks
/// for: none, `linear`, or `llama3`.
fn frequencies(json: &Value, size: usize) -> Result<Vec<f32>> {
    let scaling = ["rope_parameters", "rope_scaling"].iter().find_map(|key| json.get(*key)?.as_object());
    let theta = scaling
        .and_then(|scaling| scaling.get("rope_theta")?.as_f64())
        .or_else(|| number(json, "rope_theta"))
        .unwrap_or(10_000.0);
    let plain = (0..size).step_by(2).map(|d| 1.0 / (theta as f32).powf(d as f32 / size as f32));
    let kind = scaling
        .and_then(|scaling| scaling.get("rope_type").or_else(|| scaling.get("type"))?.as_str())
        .unwrap_or("default");
    let parameter = |key: &str| {
        scaling
            .and_then(|scaling| scaling.get(key)?.as_f64())
            .ok_or_else(|| error!(Malformed, "rope scaling {kind:?}: {key} is missing"))
    };
    match kind {
        "default" => Ok(plain.collect()),
        "linear" => {
            let factor = parameter("factor")? as f32;
            Ok(plain.map(|frequency| frequency / factor).collect())
        }
        "llama3" => {
            let factor = parameter("factor")? as f32;
            let low = parameter("low_freq_factor")? as f32;
            let high = parameter("high_freq_factor")? as f32;
            let trained = parameter("original_max_position_embeddings")? as f32;
            Ok(plain.map(|frequency| llama3(frequency, factor, low, high, trained)).collect())
        }
        other => Err(error!("rope scaling {other:?} is not supported")
            .hint("supported are default, linear and llama3")),
    }
}

/// Llama 3.1's scaling: long wavelengths are stretched by `factor`, short ones kept, those between
/// blended.
fn llama3(frequency: f32, factor: f32, low: f32, high: f32, trained: f32) -> f32 {
    let wavelength = 2.0 * std::f32::consts::PI / frequency;
    if wavelength > trained / low {
        frequency / factor
    } else if wavelength < trained / high {
        frequency
    } else {
        let smooth = (trained / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn smollm2() -> Value {
        json!({"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
            "rms_norm_eps": 1e-5, "rope_theta": 100000, "max_position_embeddings": 8192,
            "tie_word_embeddings": true, "hidden_act": "silu"})
    }

    #[test]
    fn both_spellings_of_rope() {
        let old = Config::parse(&smollm2()).unwrap();
        let mut new = smollm2();
        new.as_object_mut().unwrap().remove("rope_theta");
        new["rope_parameters"] = json!({"rope_theta": 100000, "rope_type": "default"});
        assert_eq!(old, Config::parse(&new).unwrap());
        assert_eq!(old.heads, Heads { queries: 9, keys: 3, size: 64 });
        assert_eq!(old.frequencies[0], 1.0);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value, named) in [
            ("model_type", json!("gpt2"), "gpt2"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "yarn"),
            ("hidden_size", json!(-1), "hidden_size"),
            ("num_attention_heads", json!(0), "num_attention_heads"),
            ("num_key_value_heads", json!(2), "9 query heads"),
        ] {
            let mut json = smollm2();
            json[key] = value;
            let error = Config::parse(&json).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
