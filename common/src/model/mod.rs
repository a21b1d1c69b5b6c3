//! The decoder of Qwen2/2.5, Qwen3, Llama, SmolLM2 and Mistral: one definition, with its forward
//! and its hand-written backward, for training, scoring and chat.
//!
//! Begin with [`Model::load`]. [`Batch`] packs sequences; [`Model::logits`] scores them, with a
//! [`Cache`] where earlier tokens are known; [`Model::loss`] and [`Model::loss_and_gradients`]
//! train the [`Adapters`]. Everything calls [`crate::kernels`], where the device is chosen.

mod adapters;
mod batch;
mod block;
mod cache;
mod config;
mod decoder;
mod head;
mod keys;
mod load;
mod memory;
mod modules;
mod noise;
mod outline;
mod quantization;
mod rope;
mod weights;

pub use adapters::{AdapterLayout, AdapterOptions, AdapterTensor, Adapters, Initialization};
pub use batch::{Batch, Sequence};
pub use cache::{Cache, KeyValueCache};
pub use config::Config;
pub use decoder::{Loss, Model};
pub use keys::check_config;
pub use load::{base_of_adapter, is_adapter};
pub use memory::{Plan, Wanted};
pub use modules::{BlockModules, Module, NormWeight};
pub use noise::Noise;
pub use outline::{Held, Outline};
pub use quantization::expect_readable;
pub use rope::Rope;
pub use weights::{EMBEDDING, HEAD, Weights, canonical_name, has_own_head, with_canonical_names};
