//! What a run writes down and shows while it trains.
//!
//! | file | what it is |
//! |---|---|
//! | [`step`] | what the logs are told of an optimizer step |
//! | [`trainer_log`] | the logs that transformers and LLaMA-Factory keep |
//! | [`history`] | what a checkpoint keeps of them |
//! | [`best`] | the best checkpoint by its loss on the held-out examples |
//! | [`loss_watch`] | warnings of losses that jump |
//! | [`pace`] | tokens per second, memory in use and the load of the GPU |
//! | [`plot`] | the losses as PNG files |
//! | [`tensorboard`] | TensorBoard's event files |

pub mod best;
pub mod history;
pub mod loss_watch;
pub mod pace;
pub mod plot;
pub mod step;
pub mod tensorboard;
pub mod trainer_log;
