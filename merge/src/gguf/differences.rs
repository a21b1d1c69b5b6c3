//! What llama.cpp would compute in another way than a model says, because it knows it of the family without a key.

use common::model::Config;
use common::{Result, bail, cli};

use super::architectures::Architecture;

impl Architecture {
    /// Fails, or warns, where llama.cpp would compute something else than this model.
    pub(super) fn check(&self, config: &Config) -> Result<()> {
        self.check_experts(config)?;
        self.check_scores(config)?;
        let windows = || config.layers.iter().map(|layer| layer.attention.spec.window).enumerate();
        let has_window_of_family: Option<fn(usize) -> bool> = match self.family.name {
            "gemma2" => Some(|layer| layer % 2 == 0),
            "gemma3" => Some(|layer| !(layer + 1).is_multiple_of(6)),
            "phi3" => None,
            _ => {
                if let Some(window) = windows().find_map(|(_, window)| window) {
                    cli::warn(format_args!(
                        "llama.cpp has no sliding windows for {}: beyond {window} tokens its answers differ",
                        self.family.model_type
                    ));
                }
                return Ok(());
            }
        };
        let Some(has_window) = has_window_of_family else { return Ok(()) };
        match windows().find(|(layer, window)| window.is_some() != has_window(*layer)) {
            None => Ok(()),
            Some((layer, _)) if has_window(layer) => {
                bail!(Unsupported, "layer {layer} has no sliding window, llama.cpp gives it one")
            }
            Some((layer, _)) => {
                bail!(Unsupported, "layer {layer} has a sliding window, llama.cpp gives it none")
            }
        }
    }

    /// Fails where a layer is not what llama.cpp expects of the family's mixtures.
    fn check_experts(&self, config: &Config) -> Result<()> {
        if !self.family.has_experts() {
            return Ok(());
        }
        let are_normalized = ["mixtral", "qwen3_moe"].contains(&self.family.model_type);
        for (layer, feed_forward) in config.layers.iter().map(|layer| &layer.feed_forward).enumerate() {
            match feed_forward.kind.mixture() {
                None => bail!(Unsupported, "layer {layer} has no experts, llama.cpp gives it some"),
                Some(mixture) if mixture.routing.normalized != are_normalized => bail!(
                    Unsupported,
                    "norm_topk_prob is {}, in llama.cpp {are_normalized}",
                    mixture.routing.normalized
                ),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Fails where llama.cpp would scale Gemma's scores in another way.
    fn check_scores(&self, config: &Config) -> Result<()> {
        let layers_of_largest = match self.family.name {
            "gemma2" => 46,
            "gemma3" => 62,
            _ => return Ok(()),
        };
        let Some(spec) = config.layers.first().map(|layer| layer.attention.spec) else { return Ok(()) };
        let scalar = match config.layers.len() == layers_of_largest {
            true => config.width / spec.heads.queries,
            false => spec.heads.size,
        };
        let (expected, found) = ((scalar as f32).powf(-0.5), spec.scale);
        match (found - expected).abs() <= 1e-5 * expected {
            true => Ok(()),
            false => bail!(
                Unsupported,
                "query_pre_attn_scalar is {}, in llama.cpp {scalar}",
                found.powf(-2.0).round()
            ),
        }
    }
}
