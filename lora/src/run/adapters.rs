//! The adapters that a run begins with: new ones, or those of an earlier run.

use common::adapter::{Adapter, AdapterConfig, TargetModules};
use common::model::{ATTENTION, AdapterLayout, AdapterSettings, Initialization, Model, ModelSpec};
use common::{Context, Error, Result};
use serde_json::json;

use crate::config::Config;

/// The adapters that a run begins with.
pub struct InitialAdapters {
    /// PEFT's configuration of the adapters, as checkpoints and the result have it.
    pub config: AdapterConfig,
    values: Values,
}

/// Where the values of the adapters come from.
enum Values {
    /// The adapters are drawn at random.
    New(AdapterSettings),
    /// An earlier adapter, which was read from this path.
    Earlier(Box<Adapter>, String),
}

impl InitialAdapters {
    /// The adapters of `model` that the settings of a run ask for. Reads the earlier adapter, if there is one.
    pub fn new(config: &Config, model: &ModelSpec) -> Result<Self> {
        let base = config.model.path.display().to_string();
        match &config.earlier_adapter {
            Some(path) => {
                let adapter = Adapter::load(path)?;
                let mut peft = adapter.config.clone();
                peft.base_model_name_or_path = Some(base);
                peft.lora_dropout = config.noise.dropout.unwrap_or(peft.lora_dropout);
                if adapter.config.is_composite && !model.config().is_composite {
                    // The pattern is made for the whole model, and this is its text model alone.
                    let [modules, _] = model.adapters(&adapter)?.peft_targets();
                    peft.target_modules = Some(TargetModules::Names(modules));
                }
                place_on(&mut peft, model);
                let values = Values::Earlier(Box::new(adapter), path.display().to_string());
                Ok(Self { config: peft, values })
            }
            None => {
                let mut settings = config.adapter.clone();
                settings.targets = named(&settings.targets, model);
                let [modules, parameters] = model.new_adapters(&settings)?.peft_targets();
                // Names that the user chose stay as they are where all of them are modules.
                let targets = match settings.targets.is_empty() || !parameters.is_empty() {
                    true => modules,
                    false => settings.targets.clone(),
                };
                if !parameters.is_empty() && config.noise.dropout.is_some_and(|dropout| dropout > 0.0) {
                    return Err(Error::usage("--lora-dropout: PEFT has no dropout for adapters of experts")
                        .hint("leave --lora-dropout out, or experts out of --lora-target"));
                }
                let mut peft = AdapterConfig::new(base, settings.rank, settings.alpha, targets);
                peft.target_parameters = (!parameters.is_empty()).then_some(parameters);
                place_on(&mut peft, model);
                peft.use_rslora = settings.rank_stabilized;
                peft.lora_dropout = config.noise.dropout.unwrap_or(0.0);
                if settings.initialization == Initialization::Gaussian {
                    peft.init_lora_weights = json!("gaussian");
                }
                Ok(Self { config: peft, values: Values::New(settings) })
            }
        }
    }

    /// The layout of the adapters' values in one buffer, which the headers of the model decide.
    pub fn layout(&self, model: &ModelSpec) -> Result<AdapterLayout> {
        match &self.values {
            Values::New(settings) => model.new_adapters(settings),
            Values::Earlier(adapter, path) => model.adapters(adapter).with_context(|| path.clone()),
        }
    }

    /// Attaches the adapters to the model.
    pub fn attach(&self, model: &mut Model) -> Result<()> {
        match &self.values {
            Values::New(settings) => model.add_adapters(settings),
            Values::Earlier(adapter, path) => model.set_adapter(adapter).with_context(|| path.clone()),
        }
    }
}

/// The targets by their names in the model, where `attention` stands for all projections of attention.
fn named(targets: &[String], model: &ModelSpec) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for target in targets {
        let meant = match target.as_str() {
            ATTENTION => model.config().attention_targets(),
            name => vec![name],
        };
        for name in meant {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_string());
            }
        }
    }
    names
}

/// Names the modules of an adapter as PEFT finds them in the whole model, of which the text model may be a part.
/// The names of projections alone would be found in the part that reads images too.
fn place_on(peft: &mut AdapterConfig, model: &ModelSpec) {
    let is_composite = model.config().is_composite;
    if let Some(TargetModules::Names(names)) = peft.target_modules.as_ref().filter(|_| is_composite) {
        let escaped = |name: &String| name.strip_prefix("model.").unwrap_or(name).replace('.', r"\.");
        let names: Vec<String> = names.iter().map(escaped).collect();
        let pattern = format!(r"(?:.*\.)?language_model\.(?:.*\.)?(?:{})", names.join("|"));
        peft.target_modules = Some(TargetModules::Pattern(pattern));
    }
}
