//! Talking to a model.
//!
//! | file | what it is |
//! |---|---|
//! | [`infer`] | LLaMA-Factory's infer.yaml |
//! | [`settings`] | how tokens are chosen and when an answer ends: generation_config.json and flags |
//! | [`sampling`] | one token from logits |
//! | [`generate`] | tokens one by one, behind a key/value cache |
//! | [`stop`] | ends an answer at a text that is no token |
//! | [`session`] | a conversation that fits the model |
//! | [`input`] | what the user types: lines, pastes, commands |

pub mod generate;
pub mod infer;
pub mod input;
pub mod sampling;
pub mod session;
pub mod settings;
pub mod stop;
