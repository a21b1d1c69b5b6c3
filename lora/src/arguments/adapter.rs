//! The options of the adapter and of the frozen model under it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use common::model::{ALL, ATTENTION, AdapterSettings, EXPERTS, Initialization, LINEAR_LAYERS};
use common::nf4::{QuantType, Scheme};
use common::{Error, Result, cli};

use super::checks::{at_least_1, positive};
use crate::config::model::NoiseSettings;

/// The options that say what is trained.
#[derive(Args, Debug, Clone)]
pub struct AdapterArguments {
    /// Rank of the adapters
    #[arg(long, value_name = "R", default_value_t = 8)]
    pub lora_rank: usize,

    /// Numerator of the adapters' scale, alpha / rank [default: 2 × rank]
    #[arg(long, value_name = "ALPHA")]
    pub lora_alpha: Option<f64>,

    /// Share of its input that each adapter does not see in training [default: 0, or that of
    /// --adapter-name-or-path]
    #[arg(long, value_name = "SHARE")]
    pub lora_dropout: Option<f64>,

    /// Linear layers with an adapter: names separated by commas, attention for its projections, experts for those of
    /// a mixture, or all others
    #[arg(long, value_name = "NAMES", default_value = "all", value_delimiter = ',')]
    pub lora_target: Vec<String>,

    /// Scale the adapters by alpha / √rank (rsLoRA) in place of alpha / rank
    #[arg(long)]
    pub use_rslora: bool,

    /// How A begins: true draws it uniformly, as PEFT does by default
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Initialization::Kaiming)]
    pub init_lora_weights: Initialization,

    /// Start from this PEFT adapter in place of a new one
    #[arg(long, value_name = "DIR")]
    pub adapter_name_or_path: Vec<PathBuf>,

    /// Quantize the linear layers to this many bits when the model is loaded; 4-bit models stay as they are
    #[arg(long, value_name = "BITS", value_parser = four)]
    pub quantization_bit: Option<u8>,

    /// The 4-bit type of --quantization-bit
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = QuantizationType::Nf4)]
    pub quantization_type: QuantizationType,

    /// Quantize the scales of --quantization-bit too
    #[arg(long, value_name = "BOOL", default_value_t = true,
        action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new())]
    pub double_quantization: bool,

    /// What the balance of a mixture's experts counts in the loss [default: that of config.json, mostly none]
    #[arg(long, value_name = "FACTOR")]
    pub moe_aux_loss_coef: Option<f32>,
}

impl AdapterArguments {
    /// The form and the initial values of new adapters; `seed` is that of the run.
    pub fn settings(&self, seed: u64) -> Result<AdapterSettings> {
        at_least_1("--lora-rank", self.lora_rank)?;
        positive("--lora-alpha", self.lora_alpha.unwrap_or(1.0))?;
        Ok(AdapterSettings {
            rank: self.lora_rank,
            alpha: self.lora_alpha.unwrap_or(2.0 * self.lora_rank as f64),
            targets: targets(&self.lora_target)?,
            rank_stabilized: self.use_rslora,
            initialization: self.init_lora_weights,
            seed,
        })
    }

    /// The noise of a run, with NEFTune's alpha from its own option.
    pub fn noise(&self, neftune_alpha: f64) -> Result<NoiseSettings> {
        match self.lora_dropout {
            Some(found) if !(0.0..1.0).contains(&found) => Err(Error::usage(format!(
                "--lora-dropout: a share from 0 to below 1 expected, found {found}"
            ))),
            dropout => Ok(NoiseSettings { dropout, neftune_alpha }),
        }
    }

    /// What the balance of experts counts in the loss, where it is given.
    pub fn router_loss(&self) -> Result<Option<f32>> {
        match self.moe_aux_loss_coef {
            Some(found) if !found.is_finite() || found < 0.0 => Err(Error::usage(format!(
                "--moe-aux-loss-coef: a number that is not negative expected, found {found}"
            ))),
            coefficient => Ok(coefficient),
        }
    }

    /// The scheme in which linear layers are quantized when the model is loaded, if they are.
    pub fn quantization(&self) -> Option<Scheme> {
        let quant_type = match self.quantization_type {
            QuantizationType::Nf4 => QuantType::Nf4,
            QuantizationType::Fp4 => QuantType::Fp4,
        };
        let double_quant = self.double_quantization;
        self.quantization_bit.map(|_| Scheme { quant_type, double_quant, ..Scheme::default() })
    }

    /// The directory of the adapter to start from, if there is one. LLaMA-Factory takes several, of which it
    /// trains the last; here more than one is an error.
    pub fn earlier_adapter(&self) -> Result<Option<PathBuf>> {
        let paths = &self.adapter_name_or_path;
        if let [path] = &paths[..]
            && path.exists()
        {
            return Ok(Some(path.clone()));
        }
        let texts = paths.iter().map(|path| path.to_string_lossy());
        let names: Vec<String> = texts
            .flat_map(|text| text.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>())
            .filter(|name| !name.is_empty())
            .collect();
        match &names[..] {
            [] => Ok(paths.first().cloned()),
            [name] => Ok(Some(name.into())),
            [first, .., last] => Err(Error::usage(format!(
                "--adapter-name-or-path: one adapter expected, found {}: {}",
                names.len(),
                names.join(", ")
            ))
            .hint(format!(
                "fold the others into the model first: merge {} -o merged, then lora-train merged --adapter-name-or-path {}",
                cli::quoted(first),
                cli::quoted(last)
            ))),
        }
    }
}

/// The names of `--lora-target`; none for `all`, beside which no name may stand that it does not mean.
fn targets(names: &[String]) -> Result<Vec<String>> {
    let names: Vec<&str> = names.iter().map(|name| name.trim()).collect();
    if !names.contains(&ALL) {
        return Ok(names.into_iter().map(str::to_owned).collect());
    }
    let experts = names.contains(&EXPERTS);
    let is_meant = |name: &str| {
        [ALL, ATTENTION, EXPERTS].contains(&name)
            || LINEAR_LAYERS.contains(&name.rsplit('.').next().unwrap_or(name))
    };
    match names.into_iter().find(|name| !is_meant(name)) {
        Some(other) => {
            Err(Error::usage(format!("--lora-target: {other:?} beside all is no linear layer of the blocks"))
                .hint("all means every linear layer of the blocks, and only these are trained"))
        }
        None if experts => Ok(vec![ALL.into(), EXPERTS.into()]),
        None => Ok(Vec::new()),
    }
}

/// The 4-bit types of bitsandbytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantizationType {
    /// 4-bit normal float.
    Nf4,
    /// 4-bit float.
    Fp4,
}

/// The only number of bits that weights are quantized to, 4.
fn four(text: &str) -> Result<u8, String> {
    match text {
        "4" => Ok(4),
        _ => Err("only 4 bits are supported; leave it out to train on the model as it is stored".into()),
    }
}
