//! LoRA adapters as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! LoRA (arXiv:2106.09685) adds `scale · B · A` to a frozen weight `W` `[out, in]`, with `A`
//! `[r, in]` and `B` `[out, r]`.

mod base;
mod config;
mod directory;
mod experts;
mod lora;
mod patterns;
mod tokens;

pub use base::find_base;
pub use config::{AdapterConfig, TargetModules};
pub use directory::Adapter;
pub use experts::ExpertsLora;
pub use lora::{Lora, Update};
pub use patterns::ModulePatterns;
pub use tokens::{TokenIndices, TokenRows};

/// The name of the configuration file in an adapter's directory.
pub const CONFIG: &str = "adapter_config.json";
