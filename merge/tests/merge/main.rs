//! `merge` as a user runs it, on small models and adapters made here.

#![allow(clippy::unwrap_used)] // a test file as a whole

mod families;
mod folding;
mod gguf;
mod heads;
mod hostile;
mod inputs;
mod kill;
mod output;
mod place;
mod quality;
mod texts;
mod tokens;
