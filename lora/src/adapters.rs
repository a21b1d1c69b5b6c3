//! The adapters a run begins with: new ones, or those of an earlier run.

use common::adapter::{Adapter, AdapterConfig};
use common::model::{AdapterOptions, Initialization, Model};
use common::{Context, Result};
use serde_json::json;

use crate::arguments::adapter::InitLoraWeights;
use crate::config::Config;

/// Every linear layer of a block.
const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Attaches the adapters to the model and returns their configuration.
pub fn attach(config: &Config, model: &mut Model) -> Result<AdapterConfig> {
    let base = config.model.display().to_string();
    if let Some(path) = &config.adapter {
        let adapter = Adapter::load(path)?;
        model.set_adapter(&adapter).with_context(|| path.display().to_string())?;
        let mut adapter = adapter.config;
        adapter.base_model_name_or_path = Some(base);
        adapter.lora_dropout = config.dropout.unwrap_or(adapter.lora_dropout);
        return Ok(adapter);
    }
    let gaussian = config.initialization == InitLoraWeights::Gaussian;
    model.add_adapters(&AdapterOptions {
        rank: config.rank,
        alpha: config.alpha,
        rank_stabilized: config.rank_stabilized,
        targets: config.targets.clone(),
        initialization: if gaussian { Initialization::Gaussian } else { Initialization::Kaiming },
        seed: config.seed,
    })?;
    let targets = match config.targets.is_empty() {
        true => ALL.map(String::from).to_vec(),
        false => config.targets.clone(),
    };
    let mut adapter = AdapterConfig::new(base, config.rank, config.alpha, targets);
    adapter.use_rslora = config.rank_stabilized;
    adapter.lora_dropout = config.dropout.unwrap_or(0.0);
    if gaussian {
        adapter.init_lora_weights = json!("gaussian");
    }
    Ok(adapter)
}
