//! The adapters a run begins with: new ones, or those of an earlier run.

use common::adapter::{Adapter, AdapterConfig};
use common::model::{AdapterLayout, AdapterOptions, Initialization, Model, ModelSpec};
use common::{Context, Result};
use serde_json::json;

use crate::arguments::adapter::InitLoraWeights;
use crate::config::Config;

/// Every linear layer of a block.
pub const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// What a run begins with.
pub struct Beginning {
    /// Of the adapters, as PEFT has it.
    pub config: AdapterConfig,
    adapters: Adapters,
}

enum Adapters {
    New(AdapterOptions),
    Of(Box<Adapter>, String),
}

impl Beginning {
    /// What the configuration asks for.
    pub fn new(config: &Config) -> Result<Self> {
        let base = config.model.display().to_string();
        if let Some(path) = &config.adapter {
            let adapter = Adapter::load(path)?;
            let mut of = adapter.config.clone();
            of.base_model_name_or_path = Some(base);
            of.lora_dropout = config.dropout.unwrap_or(of.lora_dropout);
            let adapters = Adapters::Of(Box::new(adapter), path.display().to_string());
            return Ok(Self { config: of, adapters });
        }
        let gaussian = config.initialization == InitLoraWeights::Gaussian;
        let options = AdapterOptions {
            rank: config.rank,
            alpha: config.alpha,
            rank_stabilized: config.rank_stabilized,
            targets: config.targets.clone(),
            initialization: if gaussian { Initialization::Gaussian } else { Initialization::Kaiming },
            seed: config.seed,
        };
        let targets = match config.targets.is_empty() {
            true => ALL.map(String::from).to_vec(),
            false => config.targets.clone(),
        };
        let mut of = AdapterConfig::new(base, config.rank, config.alpha, targets);
        of.use_rslora = config.rank_stabilized;
        of.lora_dropout = config.dropout.unwrap_or(0.0);
        if gaussian {
            of.init_lora_weights = json!("gaussian");
        }
        Ok(Self { config: of, adapters: Adapters::New(options) })
    }

    /// Where the adapters will lie.
    pub fn layout(&self, model: &ModelSpec) -> Result<AdapterLayout> {
        match &self.adapters {
            Adapters::New(options) => model.new_adapters(options),
            Adapters::Of(adapter, path) => model.adapters(adapter).with_context(|| path.clone()),
        }
    }

    /// Attaches the adapters to the model.
    pub fn attach(&self, model: &mut Model) -> Result<()> {
        match &self.adapters {
            Adapters::New(options) => model.add_adapters(options),
            Adapters::Of(adapter, path) => model.set_adapter(adapter).with_context(|| path.clone()),
        }
    }
}
