//! What config.json says about a model. Families differ by data, not by code.

use std::path::Path;

use serde_json::Value;

use super::keys::check_keys;
use super::{Rope, expect_readable};
use crate::kernels::attention::Heads;
use crate::{Context, Result, error, files};

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
    /// How positions turn the heads.
    pub rope: Rope,
    /// Whether the head shares the embedding table: what config.json says, and of a model that is opened
    /// with its weights ([`super::Weights`]) what holds for these.
    pub tied_head: bool,
    /// Biases of query, key and value.
    pub qkv_bias: bool,
    /// Bias of the attention's output.
    pub output_bias: bool,
    /// Biases of gate, up and down.
    pub mlp_bias: bool,
    /// RMS norms of query and key heads (Qwen3).
    pub head_norm: bool,
    /// Tokens of the longest sequence that is computed: the model's positions, or the window of its
    /// attention, within which it attends as without one.
    pub max_positions: usize,
    /// Tokens that a token attends to, itself included, where the model's attention has a window.
    pub window: Option<usize>,
}

impl Config {
    /// Reads `directory/config.json`.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let bytes = files::read(&path, files::CONFIG)
            .hint("a model directory holds config.json, model.safetensors and tokenizer.json")?;
        let json: Value = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
        let config = Self::parse(&json).with_context(|| path.display().to_string())?;
        expect_readable(&json, directory).with_context(|| path.display().to_string())?;
        Ok(config)
    }

    /// What bounds the length of a sequence, for people: `8192 positions`.
    pub fn bound(&self) -> String {
        match self.window {
            Some(window) if window == self.max_positions => {
                format!("attention window of {window} tokens (sliding_window)")
            }
            _ => format!("{} positions", self.max_positions),
        }
    }

    /// Reads the values of a config.json.
    pub fn parse(json: &Value) -> Result<Self> {
        check_keys(json)?;
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
            // transformers' default.
            None if family == "qwen3" => 128,
            None | Some(Value::Null) => width / queries,
            Some(_) => count(json, "head_dim")?,
        };
        if !queries.is_multiple_of(keys) || !size.is_multiple_of(2) || size == 0 {
            return Err(error!(
                Malformed,
                "{queries} query heads, {keys} key heads of size {size} do not fit together"
            ));
        }
        let layers = count(json, "num_hidden_layers")?;
        let rope = Rope::parse(json, size, count(json, "max_position_embeddings")?)?;
        let window = window(json, &family, layers)?;
        Ok(Self {
            vocabulary: count(json, "vocab_size")?,
            width,
            layers,
            heads: Heads { queries, keys, size },
            feed_forward: count(json, "intermediate_size")?,
            epsilon: number(json, "rms_norm_eps").unwrap_or(1e-6) as f32,
            max_positions: window.map_or(rope.positions, |window| window.min(rope.positions)),
            window,
            rope,
            tied_head: flag("tie_word_embeddings"),
            mlp_bias: family == "llama" && flag("mlp_bias"),
            qkv_bias,
            output_bias,
            head_norm,
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

/// Tokens that each token attends to, itself included, where that is fewer than all before it. As in
/// transformers' configurations, with their defaults: Qwen's windows are off unless `use_sliding_window`
/// is set, and then in its upper layers; Mistral's are in all layers; Llama has none.
fn window(json: &Value, family: &str, layers: usize) -> Result<Option<usize>> {
    let has_windows = match family {
        "mistral" => true,
        "qwen2" | "qwen3" if json.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(false) => {
            match json.get("layer_types").and_then(Value::as_array) {
                Some(types) => types.iter().any(|kind| kind == "sliding_attention"),
                None => {
                    let first = json.get("max_window_layers").and_then(Value::as_u64).unwrap_or(28);
                    first < layers as u64
                }
            }
        }
        _ => false,
    };
    match json.get("sliding_window") {
        _ if !has_windows => Ok(None),
        Some(Value::Null) => Ok(None),
        Some(_) => count(json, "sliding_window").map(Some),
        None => Ok(Some(4096)),
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
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value, named) in [
            ("model_type", json!("gpt2"), "gpt2"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("rope_scaling", json!({"rope_type": "longrope", "factor": 4.0}), "longrope"),
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
    /// Values of transformers' configurations of these families.
    #[test]
    fn windows_are_those_that_the_family_uses() {
        let with = |family: &str, keys: Value| {
            let mut json = smollm2();
            json["model_type"] = json!(family);
            for (key, value) in keys.as_object().unwrap() {
                json[key] = value.clone();
            }
            Config::parse(&json).unwrap().window
        };
        assert_eq!(with("mistral", json!({"sliding_window": 1024})), Some(1024));
        assert_eq!(with("mistral", json!({"sliding_window": null})), None);
        assert_eq!(with("mistral", json!({})), Some(4096));
        assert_eq!(with("llama", json!({"sliding_window": 1024})), None);
        let window = json!({"sliding_window": 1024, "max_window_layers": 28});
        assert_eq!(with("qwen2", window.clone()), None);
        let used = |more: Value| {
            let mut keys = window.clone();
            keys["use_sliding_window"] = json!(true);
            keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            with("qwen2", keys)
        };
        assert_eq!(used(json!({})), Some(1024));
        assert_eq!(used(json!({"max_window_layers": 30})), None);
        assert_eq!(used(json!({"layer_types": ["full_attention"]})), None);
    }
}
