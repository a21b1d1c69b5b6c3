//! Which tensors are quantized.

use common::checkpoint::TensorSpec;
use common::nf4::{Quantized, Scheme};
use common::{Context, Error, Result};
use regex::{Regex, RegexSet};

/// The linear weights of a decoder's blocks, in every family that is known.
const LINEAR: &str = r"^model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight$";

/// What is done with each tensor.
pub struct QuantizationPlan {
    scheme: Scheme,
    linear: Regex,
    keep: RegexSet,
}

/// What is done with one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Quantized.
    Quantize,
    /// A linear weight that the user keeps.
    Keep,
    /// Anything else: copied.
    Copy,
}

impl QuantizationPlan {
    /// `keep`: regular expressions of linear weights that stay as they are.
    pub fn new(scheme: Scheme, keep: &[String]) -> Result<Self> {
        let linear = Regex::new(LINEAR).map_err(Error::malformed)?;
        let keep = RegexSet::new(keep).map_err(Error::usage).context("--keep is not a regular expression")?;
        Ok(Self { scheme, linear, keep })
    }

    /// How weights are quantized.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether a name is that of a linear weight, quantized or kept.
    pub fn is_linear(&self, name: &str) -> bool {
        self.linear.is_match(name)
    }

    /// What is done with the tensor of that name.
    pub fn action(&self, name: &str) -> Action {
        if !self.is_linear(name) {
            Action::Copy
        } else if self.keep.is_match(name) {
            Action::Keep
        } else {
            Action::Quantize
        }
    }

    /// The tensors that a tensor becomes.
    pub fn output_specs(&self, tensor: &TensorSpec) -> Result<Vec<TensorSpec>> {
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
        let plan = QuantizationPlan::new(Scheme::default(), &["layers\\.1\\.".into()]).unwrap();
        for name in ["model.layers.0.self_attn.q_proj.weight", "model.layers.11.mlp.down_proj.weight"] {
            assert_eq!(plan.action(name), Action::Quantize, "{name}");
        }
        for name in [
            "lm_head.weight",
            "model.embed_tokens.weight",
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
        let Err(error) = QuantizationPlan::new(Scheme::default(), &["(".into()]) else { panic!() };
        assert_eq!(error.kind(), common::error::Kind::Usage);
    }
}
