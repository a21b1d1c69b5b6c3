//! A run, from its settings to the finished adapter.
//!
//! | file | what it is |
//! |---|---|
//! | [`train`] | the run: what is done before, after and between its steps |
//! | [`setup`] | everything that is known before the model is loaded, and the header that shows it |
//! | [`preview`] | what `--dry-run` shows |
//! | [`adapters`] | the adapters that a run begins with |
//! | [`share`] | the part of a step that falls to one rank |
//! | [`trainer`] | an optimizer step: the passes over a batch and the update |
//! | [`evaluation`] | the loss on the held-out examples |
//! | [`scaler`] | the loss scale of gradients in fp16 |
//! | [`gradient_check`] | tensors that cannot learn |
//! | `results` | what a run writes: checkpoints, the adapter, summaries |
//! | [`checkpoint`] | `checkpoint-N`: writing, listing and loading checkpoints |
//! | [`resume`] | the checkpoint that a run continues from, and whether it may |
//! | [`output`] | the directory that a run grows in |

pub mod adapters;
pub mod checkpoint;
pub mod evaluation;
pub mod gradient_check;
pub mod output;
pub mod preview;
mod results;
pub mod resume;
pub mod scaler;
pub mod setup;
pub mod share;
pub mod train;
pub mod trainer;
