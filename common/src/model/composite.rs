//! Checkpoints in which a text model lies in a larger model beside a part that reads images: the config.json of
//! the text model. The names of its weights are in [`crate::weight_names`].

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::json::kind_of;
use crate::{Result, bail};

/// `model_type` of larger models, and of their text model where its configuration does not name it.
const COMPOSITES: [(&str, &str); 2] = [("gemma3", "gemma3_text"), ("mistral3", "mistral")];

/// `model_type` of text models that larger models have, and the class that loads each by itself.
const TEXT_MODELS: [(&str, &str); 3] = [
    ("gemma3_text", "Gemma3ForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("ministral3", "Ministral3ForCausalLM"),
];

/// Keys that may stand in the configuration of the larger model and hold for its text model.
const SHARED: [&str; 8] = [
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "torch_dtype",
    "quantization_config",
    "transformers_version",
];

/// Whether a config.json is that of a larger model.
pub fn is_composite(json: &Value) -> bool {
    composite(json).is_some()
}

fn composite(json: &Value) -> Option<&'static (&'static str, &'static str)> {
    let model_type = json.get("model_type")?.as_str()?;
    COMPOSITES.iter().find(|(composite, _)| *composite == model_type)
}

/// The config.json of the text model, as if it had been saved by itself: with the values that transformers takes
/// for keys that are not there, because larger models are saved without them. A config.json of a text model is
/// returned as it is.
pub fn text_config(json: &Value) -> Result<Cow<'_, Value>> {
    let Some((_, default_type)) = composite(json) else { return Ok(Cow::Borrowed(json)) };
    let own = match json.get("text_config") {
        None | Some(Value::Null) => &Map::new(),
        Some(Value::Object(own)) => own,
        Some(found) => bail!(Malformed, "text_config: an object expected, found {}", kind_of(found)),
    };
    let model_type = match own.get("model_type") {
        None | Some(Value::Null) => default_type,
        Some(Value::String(model_type)) => model_type.as_str(),
        Some(found) => bail!(Malformed, "text_config.model_type: a text expected, found {found}"),
    };
    let mut text = Map::new();
    if let Some((_, class)) = TEXT_MODELS.iter().find(|(name, _)| *name == model_type) {
        text.insert("architectures".into(), json!([class]));
    }
    text.extend(defaults(model_type));
    text.extend(
        own.iter()
            .filter(|(key, _)| *key != "architectures")
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    text.insert("model_type".into(), json!(model_type));
    for key in SHARED {
        if let Some(value) = json.get(key).filter(|value| !value.is_null()) {
            text.insert(key.into(), value.clone());
        }
    }
    Ok(Cow::Owned(Value::Object(text)))
}

/// Values that transformers takes for keys that a text model's configuration does not have.
fn defaults(model_type: &str) -> Map<String, Value> {
    let values = match model_type {
        "gemma3_text" => json!({
            "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "max_position_embeddings": 131_072, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
        }),
        "mistral" => json!({
            "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-6, "sliding_window": 4096, "tie_word_embeddings": true,
        }),
        "ministral3" => json!({
            "vocab_size": 131_072, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 34,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "max_position_embeddings": 262_144, "rms_norm_eps": 1e-5, "sliding_window": null,
            "tie_word_embeddings": true,
        }),
        _ => Value::Null,
    };
    match values {
        Value::Object(values) => values,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Config;

    /// As the config.json of Gemma 3 4B, which names only what differs from transformers' defaults.
    fn gemma() -> Value {
        json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "eos_token_id": [1, 106], "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152},
            "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024}})
    }

    #[test]
    fn what_a_larger_model_does_not_name_is_transformers_default() {
        let config = Config::parse(&gemma()).unwrap();
        assert!(config.is_composite && config.tied_head);
        assert_eq!((config.vocabulary, config.width, config.layers.len()), (262_208, 2560, 34));
        let spec = config.layers[0].attention.spec;
        assert_eq!((spec.heads.queries, spec.heads.keys, spec.heads.size), (8, 4, 256));
        assert_eq!((spec.window, config.layers[5].attention.spec.window), (Some(1024), None));
    }

    #[test]
    fn the_text_models_config_stands_by_itself() {
        let gemma = gemma();
        let text = text_config(&gemma).unwrap().into_owned();
        assert_eq!(text["architectures"], json!(["Gemma3ForCausalLM"]));
        assert_eq!(text["eos_token_id"], json!([1, 106]));
        assert!(text.get("vision_config").is_none() && !is_composite(&text));
        let (within, alone) = (Config::parse(&gemma).unwrap(), Config::parse(&text).unwrap());
        assert_eq!(within, Config { is_composite: true, ..alone });
        assert_eq!(*text_config(&text).unwrap(), text);
    }

    #[test]
    fn a_text_config_of_another_form_is_refused() {
        for (key, value) in [("text_config", json!([])), ("text_config", json!({"model_type": 7}))] {
            let mut json = gemma();
            json[key] = value;
            assert!(Config::parse(&json).unwrap_err().to_string().contains("text_config"));
        }
        let mut json = gemma();
        json["text_config"]["hidden_size"] = json!("wide");
        assert!(Config::parse(&json).unwrap_err().to_string().contains("hidden_size"));
    }
}
