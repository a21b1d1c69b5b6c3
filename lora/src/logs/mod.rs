//! What a run writes down and shows while it trains.
//!
//! | file | what it is |
//! |---|---|
//! | [`record`] | the logs that transformers and LLaMA-Factory keep |
//! | [`best`] | the best checkpoint by those logs |
//! | [`plot`] | the losses as PNG files |
//! | [`tensorboard`] | TensorBoard's event files |
//! | [`pace`] | tokens per second, memory and load of the GPU |

pub mod best;
pub mod pace;
pub mod plot;
pub mod record;
pub mod tensorboard;
