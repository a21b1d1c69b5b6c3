//! `adapter_config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::tokens::TokenIndices;
use super::{CONFIG, ModulePatterns};
use crate::{Context, Result, bail, error, files};

/// The hint about an adapter of a kind that is not supported.
pub(super) const MERGE_IN_PEFT: &str = "merge this adapter in PEFT with merge_and_unload()";

/// The content of `adapter_config.json`, with PEFT's names and defaults. Keys that are not listed here are
/// ignored, except those that would change the result; see [`AdapterConfig::read`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// The kind of adapter. Only `LORA` is read.
    pub peft_type: String,
    /// The task, which is `CAUSAL_LM` for the models of these tools.
    #[serde(default)]
    pub task_type: Option<String>,
    /// The model that the adapter belongs to: a directory, or a repository's name.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// The rank of modules that `rank_pattern` does not name.
    pub r: usize,
    /// The numerator of the scale of modules that `alpha_pattern` does not name.
    pub lora_alpha: f64,
    /// The probability with which inputs of `A` were dropped in training.
    #[serde(default)]
    pub lora_dropout: f64,
    /// Which biases were trained too and are in the file: `none`, `all` or `lora_only`.
    #[serde(default = "none")]
    pub bias: String,
    /// Whether base weights are stored transposed. PEFT ignores it for linear layers, and so do these tools.
    #[serde(default)]
    pub fan_in_fan_out: bool,
    /// Whether the scale is `alpha / √r` (rsLoRA, arXiv:2312.03732) in place of `alpha / r`.
    #[serde(default)]
    pub use_rslora: bool,
    /// Whether the adapter is for inference, which PEFT writes as true.
    #[serde(default)]
    pub inference_mode: bool,
    /// The initialization of the adapter; see [`AdapterConfig::read`] for those that are refused.
    #[serde(default = "yes")]
    pub init_lora_weights: Value,
    /// Ranks by module: names or regular expressions that match the end of a module's path.
    #[serde(default)]
    pub rank_pattern: ModulePatterns,
    /// Alphas by module, like `rank_pattern`.
    #[serde(default)]
    pub alpha_pattern: ModulePatterns,
    /// Modules saved whole beside the adapter, such as `lm_head`.
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    /// The modules with an adapter.
    #[serde(default)]
    pub target_modules: Option<TargetModules>,
    /// The parameters with an adapter that are no modules: those of a mixture's experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_parameters: Option<Vec<String>>,
    /// The tokens whose rows of the embedding table were trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable_token_indices: Option<TokenIndices>,
    /// Whether the base is a text model within a larger one, where PEFT finds its modules below
    /// `model.language_model`. The names of the tensors say it, and no key of the file.
    #[serde(skip)]
    pub is_composite: bool,
    /// All other keys of the file.
    #[serde(flatten, skip_serializing)]
    other: Map<String, Value>,
}

/// Which modules have an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// Last names of modules, such as `q_proj`, or whole paths.
    Names(Vec<String>),
    /// A regular expression that whole paths match, or `all-linear`.
    Pattern(String),
}

fn none() -> String {
    "none".into()
}

fn yes() -> Value {
    Value::Bool(true)
}

/// Keys that change the result when they are set, and the feature that each switches on.
const UNSUPPORTED: [(&str, &str); 9] = [
    ("use_dora", "DoRA"),
    ("use_qalora", "QALoRA"),
    ("use_bdlora", "BD-LoRA"),
    ("lora_bias", "a bias in B"),
    ("layer_replication", "replicated layers"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("arrow_config", "Arrow routing"),
    ("kasa_config", "KaSA"),
    ("monteclora_config", "MonteCLoRA"),
];

/// Values of `init_lora_weights` that leave the base weights as they are. The others (PiSSA, OLoRA, CorDA,
/// LoftQ, LoRA-GA) train against a changed base, which cannot be restored from the adapter alone.
const PLAIN_INITS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

impl AdapterConfig {
    /// The configuration of a new adapter: plain LoRA without dropout or biases.
    pub fn new(base: impl Into<String>, rank: usize, alpha: f64, targets: Vec<String>) -> Self {
        Self {
            peft_type: "LORA".into(),
            task_type: Some("CAUSAL_LM".into()),
            base_model_name_or_path: Some(base.into()),
            r: rank,
            lora_alpha: alpha,
            lora_dropout: 0.0,
            bias: none(),
            fan_in_fan_out: false,
            use_rslora: false,
            inference_mode: true,
            init_lora_weights: yes(),
            rank_pattern: ModulePatterns::default(),
            alpha_pattern: ModulePatterns::default(),
            modules_to_save: None,
            target_modules: Some(TargetModules::Names(targets)),
            target_parameters: None,
            trainable_token_indices: None,
            is_composite: false,
            other: Map::new(),
        }
    }

    /// Reads the configuration in an adapter's directory. Fails where it sets a key that would change the
    /// result and is not supported.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(CONFIG);
        let text = files::read(&path, files::CONFIG).hint("name the directory of a PEFT adapter")?;
        let config: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not the configuration of a LoRA adapter", path.display()))?;
        config.check().with_context(|| path.display().to_string())?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        if self.peft_type != "LORA" {
            bail!(Unsupported, "peft_type {:?} is not supported, expected LORA", self.peft_type);
        }
        for (key, what) in UNSUPPORTED {
            if self.other.get(key).is_some_and(is_set) {
                return Err(error!("{key} is set: {what} is not supported").hint(MERGE_IN_PEFT));
            }
        }
        match &self.init_lora_weights {
            Value::Bool(_) | Value::Null => {}
            Value::String(init) if PLAIN_INITS.contains(&init.as_str()) => {}
            Value::String(init) => {
                return Err(error!("init_lora_weights is {init:?}, which changes the base weights").hint(
                    "convert the adapter in PEFT: save_pretrained(…, path_initial_model_for_weight_conversion=…)",
                ));
            }
            _ => bail!(Malformed, "init_lora_weights: true, false or a name expected"),
        }
        if !["none", "all", "lora_only"].contains(&self.bias.as_str()) {
            bail!(Unsupported, "bias is {:?}, expected none, all or lora_only", self.bias);
        }
        if !(0.0..=1.0).contains(&self.lora_dropout) {
            bail!(Malformed, "lora_dropout is {}, expected a number from 0 to 1", self.lora_dropout);
        }
        if self.r == 0 || !self.lora_alpha.is_finite() {
            bail!(
                Malformed,
                "r is {} and lora_alpha {}, expected r above 0 and a finite alpha",
                self.r,
                self.lora_alpha
            );
        }
        let is_of_experts = |target: &&String| {
            !target.ends_with("experts.gate_up_proj") && !target.ends_with("experts.down_proj")
        };
        if let Some(other) = self.target_parameters.iter().flatten().find(is_of_experts) {
            return Err(error!("target_parameters has {other}: only parameters of experts are supported")
                .hint(MERGE_IN_PEFT));
        }
        if let Some((name, rank)) = self.rank_pattern.iter().find(|(_, rank)| !is_count(rank)) {
            bail!(Malformed, "rank_pattern has {rank} for {name:?}, expected a whole number above 0");
        }
        Ok(())
    }

    /// The scale of `B · A` of a module; `rank` is that of the module's tensors.
    pub fn scale(&self, module: &str, rank: usize) -> Result<f32> {
        let alpha = self.alpha_pattern.get(module).unwrap_or(self.lora_alpha);
        let rank = rank as f64;
        let scale = (alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32;
        match scale.is_finite() {
            true => Ok(scale),
            false => {
                Err(error!(Malformed, "the alpha of {module} is {alpha}, which no number can be scaled by"))
            }
        }
    }

    /// The rank that the configuration gives a module.
    pub fn rank(&self, module: &str) -> usize {
        self.rank_pattern.get(module).map_or(self.r, |rank| rank as usize)
    }
}

/// Whether a value is a whole number above 0, which may be written as 8.0.
fn is_count(value: &Value) -> bool {
    value.as_f64().is_some_and(|count| count >= 1.0 && count.fract() == 0.0)
}

/// Whether Python counts a JSON value as true.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Result<AdapterConfig> {
        let config: AdapterConfig = serde_json::from_str(json)?;
        config.check()?;
        Ok(config)
    }

    fn with(keys: &str) -> Result<AdapterConfig> {
        config(&format!(r#"{{"peft_type":"LORA","r":8,"lora_alpha":16{keys}}}"#))
    }

    #[test]
    fn defaults_and_unknown_keys() {
        let config = with(r#","some_future_key":{"x":1},"use_dora":false,"kasa_config":null"#).unwrap();
        assert_eq!(config.scale("model.layers.0.self_attn.q_proj", 8).unwrap(), 2.0);
        assert_eq!(config.bias, "none");
        assert!(config.target_modules.is_none());
    }

    #[test]
    fn what_changes_the_result_is_refused_by_its_key() {
        for (key, _) in UNSUPPORTED {
            let error = with(&format!(r#","{key}":[1]"#)).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        for init in ["pissa", "pissa_niter_16", "olora", "loftq", "corda", "lora_ga"] {
            assert!(with(&format!(r#","init_lora_weights":"{init}""#)).is_err(), "{init}");
        }
        assert!(with(r#","init_lora_weights":"gaussian""#).is_ok());
        assert!(with(r#","bias":"some""#).is_err());
        assert!(with(r#","rank_pattern":{"(":4}"#).is_err());
        assert!(with(r#","rank_pattern":{"q_proj":2.5}"#).is_err());
        assert!(with(r#","lora_dropout":5"#).is_err());
        assert!(with(r#","init_lora_weights":[1]"#).is_err());
        let huge = config(r#"{"peft_type":"LORA","r":8,"lora_alpha":1e300}"#).unwrap();
        assert!(huge.scale("q_proj", 8).is_err());
        assert!(config(r#"{"peft_type":"IA3","r":8,"lora_alpha":16}"#).is_err());
        assert!(config(r#"{"peft_type":"LORA","r":0,"lora_alpha":16}"#).is_err());
    }

    #[test]
    fn patterns_match_the_end_of_a_path_and_the_first_wins() {
        let config = with(
            r#","use_rslora":true,"rank_pattern":{"layers\\.1\\..*q_proj":4,"q_proj":2},"alpha_pattern":{"q_proj":32}"#,
        )
        .unwrap();
        assert_eq!(config.rank("model.layers.1.self_attn.q_proj"), 4);
        assert_eq!(config.rank("model.layers.11.self_attn.q_proj"), 2);
        assert_eq!(config.rank("model.layers.2.self_attn.xq_proj"), 8, "not at a dot");
        assert_eq!(config.scale("model.layers.1.self_attn.q_proj", 4).unwrap(), 16.0);
        assert_eq!(config.scale("model.layers.1.self_attn.k_proj", 16).unwrap(), 4.0);
    }

    #[test]
    fn targets_are_a_list_or_a_pattern() {
        let targets = |json: &str| with(&format!(r#","target_modules":{json}"#)).unwrap().target_modules;
        assert_eq!(targets(r#"["q_proj"]"#), Some(TargetModules::Names(vec!["q_proj".into()])));
        assert_eq!(targets(r#""all-linear""#), Some(TargetModules::Pattern("all-linear".into())));
    }
}
