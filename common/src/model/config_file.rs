//! Reads config.json: of each family, as data that the same code computes with.

use std::path::Path;

use serde_json::Value;

use super::composite::{is_composite, text_config};
use super::config_json::ConfigJson;
use super::keys::check_keys;
use super::{Config, expect_readable, families};
use crate::gguf::GgufFile;
use crate::{Context, Result, files, llama_cpp};

impl Config {
    /// Reads `directory/config.json`, or what a GGUF file says in its place.
    pub fn read(directory: &Path) -> Result<Self> {
        if llama_cpp::is_file(directory) {
            let (json, _) = llama_cpp::config_json(&GgufFile::open(directory)?)?;
            return Self::parse(&json).with_context(|| directory.display().to_string());
        }
        let path = directory.join("config.json");
        let bytes = files::read(&path, files::CONFIG)
            .hint("a model directory holds config.json, model.safetensors and tokenizer.json")?;
        let json: Value = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
        let config = Self::parse(&json).with_context(|| path.display().to_string())?;
        expect_readable(&json, directory).with_context(|| path.display().to_string())?;
        Ok(config)
    }

    /// Reads the values of a config.json.
    pub fn parse(json: &Value) -> Result<Self> {
        let text = text_config(json)?;
        check_keys(&text)?;
        let config = families::parse(ConfigJson(&text))?;
        Ok(Config { is_composite: is_composite(json), ..config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::Heads;
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
        assert_eq!(old.layers[29].attention.spec.heads, Heads { queries: 9, keys: 3, size: 64 });
    }

    /// The number that transformers counts for SmolLM2-135M.
    #[test]
    fn parameters_are_counted_by_the_list_of_modules() {
        let config = Config::parse(&smollm2()).unwrap();
        assert_eq!(config.parameter_count(), 134_515_008);
        assert_eq!(config.modules().count(), 1 + 30 * 7);
        assert_eq!(
            config.targets(),
            ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        );
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value, named) in [
            ("model_type", json!("gpt2"), "gpt2"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("rope_scaling", json!({"rope_type": "proportional", "factor": 4.0}), "proportional"),
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

    #[test]
    fn what_a_family_does_not_support_is_refused_by_name() {
        for (family, key, value) in [
            ("gemma2", "use_bidirectional_attention", json!(true)),
            ("gemma3_text", "use_bidirectional_attention", json!(true)),
            ("gemma3_text", "final_logit_softcapping", json!(30.0)),
            ("gemma2", "hidden_activation", json!("gelu")),
            ("phi3", "rope_scaling", json!({"type": "yarn", "factor": 4.0})),
            ("glm4", "partial_rotary_factor", json!(0.01)),
        ] {
            let mut json = smollm2();
            json["model_type"] = json!(family);
            json["head_dim"] = json!(64);
            assert!(Config::parse(&json).is_ok(), "{family}");
            json[key] = value;
            let error = Config::parse(&json).unwrap_err().to_string();
            assert!(error.contains(key) || error.contains("rope_type"), "{error}");
        }
    }

    /// The windows of transformers' configurations of these families, of the first and the last layer.
    #[test]
    fn windows_are_those_that_the_family_uses() {
        let windows = |family: &str, keys: Value| -> Result<[Option<usize>; 2]> {
            let mut json = smollm2();
            json["model_type"] = json!(family);
            json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            let layers = Config::parse(&json)?.layers;
            Ok([&layers[0], &layers[29]].map(|layer| layer.attention.spec.window))
        };
        let of = |family: &str, keys: Value| windows(family, keys).unwrap();
        assert_eq!(of("mistral", json!({"sliding_window": 1024})), [Some(1024); 2]);
        assert_eq!(of("mistral", json!({"sliding_window": null})), [None; 2]);
        assert_eq!(of("mistral", json!({})), [Some(4096); 2]);
        assert_eq!(of("llama", json!({"sliding_window": 1024})), [None; 2]);
        for family in ["qwen2", "qwen3"] {
            let window = json!({"sliding_window": 1024, "max_window_layers": 28});
            assert_eq!(of(family, window.clone()), [None; 2]);
            let used = |more: Value| {
                let mut keys = window.clone();
                keys["use_sliding_window"] = json!(true);
                keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                windows(family, keys)
            };
            assert_eq!(used(json!({})).unwrap(), [None, Some(1024)]);
            assert_eq!(used(json!({"max_window_layers": 30})).unwrap(), [None; 2]);
            let mut types = vec!["full_attention"; 30];
            assert_eq!(used(json!({"layer_types": types})).unwrap(), [None; 2]);
            types[0] = "sliding_attention";
            assert_eq!(used(json!({"layer_types": types})).unwrap(), [Some(1024), None]);
            types[1] = "chunked_attention";
            assert!(
                used(json!({"layer_types": types})).unwrap_err().to_string().contains("chunked_attention")
            );
            let short = used(json!({"layer_types": ["full_attention"]})).unwrap_err().to_string();
            assert!(short.contains("30 layers expected, found 1"), "{short}");
        }
    }
}
