//! Rotary embeddings as llama.cpp wants them: settings of config.json, and factors of the angles that it takes from
//! tensors.

use common::llama_cpp::llama3_factors;
use common::model::Config;
use serde_json::{Map, Value};

/// The settings of a rotary embedding in config.json; those of full attention where layers differ.
pub(super) struct RopeSettings {
    values: Map<String, Value>,
    /// The base of the angles.
    pub theta: f32,
}

impl RopeSettings {
    /// The settings of the model whose config.json is `json`.
    pub(super) fn find(json: &Value) -> Self {
        let object = |key: &str| json.get(key).and_then(Value::as_object).filter(|values| !values.is_empty());
        let parameters = object("rope_parameters");
        let of_full = parameters.and_then(|values| values.get("full_attention")).and_then(Value::as_object);
        let values = object("rope_scaling").or(of_full).or(parameters).cloned().unwrap_or_default();
        let is_gemma3 = json.get("model_type").is_some_and(|kind| kind == "gemma3_text");
        let theta = values.get("rope_theta").or(of_full.and_then(|full| full.get("rope_theta")));
        let theta = theta.or(json.get("rope_theta")).and_then(Value::as_f64);
        let default = if is_gemma3 { 1e6 } else { 10_000.0 };
        Self { values, theta: theta.unwrap_or(default) as f32 }
    }

    /// How angles are scaled.
    pub(super) fn kind(&self) -> &str {
        let kind = self.values.get("rope_type").or(self.values.get("type"));
        kind.and_then(Value::as_str).unwrap_or("default")
    }

    /// A number among the settings.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.values.get(key).and_then(Value::as_f64)
    }

    /// A list of numbers among the settings.
    pub(super) fn factors(&self, key: &str) -> Option<Vec<f32>> {
        let list = self.values.get(key)?.as_array()?;
        list.iter().map(|number| number.as_f64().map(|number| number as f32)).collect()
    }

    /// The number of positions that the model was trained on before its angles were scaled.
    pub(super) fn trained(&self, json: &Value) -> Option<usize> {
        let key = "original_max_position_embeddings";
        self.values.get(key).or(json.get(key)).and_then(Value::as_u64).map(|count| count as usize)
    }
}

/// The factors of angles that are tensors of their own: those of Llama 3's scaling, and of Phi-3's LongRoPE.
pub(super) fn factors(architecture: &str, json: &Value, config: &Config) -> Vec<(String, Vec<f32>)> {
    let rope = RopeSettings::find(json);
    if architecture == "phi3" {
        let factors =
            [("rope_factors_long.weight", "long_factor"), ("rope_factors_short.weight", "short_factor")];
        let found = factors.iter().filter_map(|(name, key)| Some(((*name).to_owned(), rope.factors(key)?)));
        return found.collect();
    }
    if rope.kind() != "llama3" {
        return Vec::new();
    }
    let size = config.layers.first().map_or(0, |layer| layer.attention.spec.heads.size);
    let number = |key: &str, default: f64| rope.number(key).unwrap_or(default) as f32;
    let (factor, low, high) =
        (number("factor", 8.0), number("low_freq_factor", 1.0), number("high_freq_factor", 4.0));
    let trained = rope.trained(json).unwrap_or(8192) as f32;
    let factors = llama3_factors(size / 2, rope.theta, factor, low, high, trained);
    vec![("rope_freqs.weight".into(), factors)]
}
