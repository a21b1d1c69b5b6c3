//! The decoder of Qwen2/2.5, Qwen3, Llama, SmolLM2 and Mistral: one definition, with its forward
//! and its hand-written backward, for training, scoring and chat.
//!
//! Begin with [`Model::load`]. [`Batch`] packs sequences; [`Model::logits`] scores them, with a
//! [`Cache`] where earlier tokens are known; [`Model::forward`] and [`Model::backward`] train the
//! [`Adapters`] towards an [`Objective`]. Everything calls [`crate::kernels`], where the device is chosen.
//!
//! | file | what it holds |
//! |---|---|
//! | `config`, `layer`, `modules` | a model as data: its layers, and their matrices and norms |
//! | `weight_list` | the one list of its weights |
//! | `config_file`, `families/` | config.json, and that of each family as such data |
//! | `composite` | config.json of a text model within a model that also reads images |
//! | `rope/` | the angles of rotary embedding, and their settings |
//! | `attention`, `feed_forward`, `residual`, `block` | a layer's two branches, how they join the residual stream, and the layer: forward, backward, memory |
//! | `gated`, `mixture` | what a feed-forward computes: a gated linear unit, or a mixture of experts |
//! | `decoder`, `blocks`, `load`, `weight_reader` | the whole model and its weights |
//! | `places`, `placement` | where the weights of blocks lie, and how many a GPU has room for |
//! | `inference`, `tape`, `inputs`, `objective`, `head`, `logits` | the passes: without and with a backward |
//! | `adapters`, `detached` | the trainable parameters, and those of other adapters that take their place |
//! | `spec`, `memory` | what a model and its passes take, before anything is loaded |

mod activations;
mod adapters;
mod attention;
mod batch;
mod block;
mod blocks;
mod cache;
mod composite;
mod config;
mod config_file;
mod config_json;
mod decoder;
mod detached;
mod families;
mod feed_forward;
mod gated;
mod head;
mod inference;
mod inputs;
mod keys;
mod layer;
mod load;
mod logits;
mod memory;
mod mixture;
mod modules;
mod noise;
mod objective;
mod pass;
mod placement;
mod places;
mod quantization;
mod residual;
mod rope;
mod spec;
mod stack;
mod tape;
mod weight_list;
mod weight_reader;
mod weights;

pub use crate::weight_names::{EMBEDDING, HEAD, canonical_name};
pub use adapters::{
    ALL, ATTENTION, AdapterLayout, AdapterSettings, AdapterTensor, Adapters, EXPERTS, Initialization,
};
pub use batch::{Batch, Sequence};
pub use cache::{Cache, KeyValueCache};
pub use composite::{is_composite, text_config};
pub use config::Config;
pub use decoder::Model;
pub use detached::DetachedAdapters;
pub use families::LINEAR_LAYERS;
pub use keys::check_config;
pub use layer::{
    AttentionConfig, ExpertModules, FeedForwardConfig, FeedForwardKind, GatedConfig, HeadNormsConfig,
    LayerConfig, MixtureConfig, ResidualConfig, SharedExpertConfig, StackConfig,
};
pub use load::{base_of_adapter, is_adapter};
pub use logits::{Logits, PendingLogits};
pub use memory::{InferenceRequest, PassPlan, PassRequest};
pub use modules::{Module, NormWeight, Role};
pub use noise::Noise;
pub use objective::{Loss, Objective, Supervised};
pub use placement::Placement;
pub use places::{Place, Places};
pub use quantization::expect_readable;
pub use rope::Rope;
pub use spec::{ModelSpec, ResidentBytes};
pub use stack::Stack;
pub use tape::{Tape, TapePlan};
pub use weights::{Weights, has_own_head, text_weights, with_canonical_names, with_separate_experts};

/// The directories of the tiny models of every family, for tests.
#[cfg(test)]
fn tiny_models() -> Vec<std::path::PathBuf> {
    let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let entries = std::fs::read_dir(models).into_iter().flatten();
    let mut directories: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    directories.sort_unstable();
    assert!(directories.len() >= 18, "{directories:?}");
    directories
}
