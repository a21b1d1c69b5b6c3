//! Fine-tunes LoRA adapters on a frozen model.
//!
//! | module | what it is |
//! |---|---|
//! | [`arguments`] | the command line |
//! | [`yaml`] | LLaMA-Factory's `train.yaml`, turned into options |
//! | [`config`] | the settings of a run, checked |
//! | [`data`] | instruction data: files of examples, read and tokenized |
//! | [`schedule`] | the length of a run and its learning rates |
//! | [`plan`] | the order of examples and the use of memory |
//! | [`run`] | steps, evaluation, checkpoints and the finished adapter |
//! | [`logs`] | what a run writes down and shows while it trains |

pub mod arguments;
pub mod config;
pub mod data;
pub mod logs;
pub mod plan;
pub mod run;
pub mod schedule;
pub mod yaml;
