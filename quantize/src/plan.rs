//! Decides which tensors are quantized.

use std::collections::HashSet;

use common::checkpoint::TensorSpec;
use common::model::{Config, Module};
use common::nf4::{Quantized, Scheme};
use common::{Context, Error, Result};
use regex::RegexSet;

/// Decides for each tensor whether it is quantized, and how.
pub(crate) struct QuantizationPlan {
    scheme: Scheme,
    config: Config,
    /// The names of the weights of the blocks' linear layers.
    linear: HashSet<String>,
    keep: RegexSet,
}

/// The treatment of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Quantize the linear weight.
    Quantize,
    /// Copy a linear weight, because the user keeps it.
    Keep,
    /// Copy a tensor that is not a linear weight.
    Copy,
}

/// The regular expressions of `--keep`.
pub(crate) fn keep_patterns(keep: &[String]) -> Result<RegexSet> {
    RegexSet::new(keep).map_err(Error::usage).context("--keep is not a regular expression")
}

impl QuantizationPlan {
    /// A plan that quantizes the linear weights of the model that `config` describes, except those that
    /// `keep` matches.
    pub(crate) fn new(scheme: Scheme, keep: RegexSet, config: Config) -> Self {
        Self { scheme, linear: config.projections().map(Module::weight).collect(), keep, config }
    }

    /// The model.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The settings of quantization.
    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether `name` is the name of a linear weight, quantized or kept.
    pub(crate) fn is_linear(&self, name: &str) -> bool {
        self.linear.contains(name)
    }

    /// The treatment of the tensor `name`.
    pub(crate) fn action(&self, name: &str) -> Action {
        if !self.is_linear(name) {
            Action::Copy
        } else if self.keep.is_match(name) {
            Action::Keep
        } else {
            Action::Quantize
        }
    }

    /// The specifications of the tensors that `tensor` becomes.
    pub(crate) fn output_specs(&self, tensor: &TensorSpec) -> Result<Vec<TensorSpec>> {
        match self.action(&tensor.name) {
            Action::Quantize => Quantized::specs(tensor, self.scheme),
            Action::Keep | Action::Copy => Ok(vec![tensor.clone()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_blocks_linear_weights_are_quantized() {
        let config = serde_json::json!({"model_type": "qwen3", "vocab_size": 9, "hidden_size": 8,
            "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 4,
            "max_position_embeddings": 16, "attention_bias": true});
        let keep = keep_patterns(&["layers\\.1\\.".into()]).unwrap();
        let plan = QuantizationPlan::new(Scheme::default(), keep, Config::parse(&config).unwrap());
        for name in ["model.layers.0.self_attn.q_proj.weight", "model.layers.11.mlp.down_proj.weight"] {
            assert_eq!(plan.action(name), Action::Quantize, "{name}");
        }
        for name in [
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.12.mlp.down_proj.weight",
            "model.norm.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.self_attn.q_norm.weight",
            "model.layers.0.self_attn.q_proj.bias",
        ] {
            assert_eq!(plan.action(name), Action::Copy, "{name}");
        }
        assert_eq!(plan.action("model.layers.1.mlp.up_proj.weight"), Action::Keep);
    }

    #[test]
    fn a_bad_pattern_is_wrong_usage() {
        let error = keep_patterns(&["(".into()]).unwrap_err();
        assert_eq!(error.kind(), common::error::Kind::Usage);
    }
}
