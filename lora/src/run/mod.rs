//! A run, from its settings to the finished adapter.
//!
//! | file | what it is |
//! |---|---|
//! | [`setup`] | everything that is known before the model is loaded, and the header that shows it |
//! | [`preview`] | what `--dry-run` shows |
//! | [`train`] | the run: steps, evaluation, checkpoints |
//! | [`adapters`] | the adapters that a run begins with |
//! | [`scaler`] | the loss scale of gradients in fp16 |
//! | [`health`] | tensors that cannot learn, losses that jump |
//! | [`checkpoint`] | `checkpoint-N`: writing and resuming |
//! | [`output`] | the directory that a run grows in |

pub mod adapters;
pub mod checkpoint;
pub mod health;
pub mod output;
pub mod preview;
pub mod scaler;
pub mod setup;
pub mod train;
