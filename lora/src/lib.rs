//! Fine-tunes LoRA adapters on a frozen model.
//!
//! | module | what it is |
//! |---|---|
//! | [`arguments`] | the command line |
//! | [`config`] | a run, checked |
//! | [`data`] | instruction data: files of examples, read and tokenized |
//! | [`order`] | which examples a step sees |
//! | [`schedule`] | learning rates |
//! | [`yaml`] | LLaMA-Factory's `train.yaml`, read and written |
//! | [`every`] | when something is done again and again |
//! | [`adapters`] | the adapters a run begins with |
//! | [`health`] | tensors that cannot learn, losses that jump |
//! | [`best`] | the best checkpoint |
//! | [`preview`] | what `--dry-run` shows |
//! | [`setup`] | a run before its model is loaded, and the header |
//! | [`train`] | the run: steps, evaluation, checkpoints |
//! | [`checkpoint`] | `checkpoint-N`: writing and continuing |
//! | [`output`] | the directory a run grows in |
//! | [`packs`] | examples put together up to the cutoff |
//! | [`pace`] | tokens a second and memory |
//! | [`memory`] | where memory goes: how many tokens a pass holds, and what it keeps |
//! | [`plot`] | the losses as PNG files |
//! | [`tensorboard`] | event files |
//! | [`record`] | the logs that transformers and LLaMA-Factory keep |

pub mod adapters;
pub mod arguments;
pub mod best;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod every;
pub mod health;
pub mod memory;
pub mod order;
pub mod output;
pub mod pace;
pub mod packs;
pub mod plot;
pub mod preview;
pub mod record;
pub mod scaler;
pub mod schedule;
pub mod setup;
pub mod tensorboard;
pub mod train;
pub mod yaml;
