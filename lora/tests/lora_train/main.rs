//! `lora-train` as a user runs it, on a tiny model.

#![allow(clippy::unwrap_used)] // a test file as a whole

mod bounds;
mod data;
mod datasets;
mod families;
mod hostile;
mod memory;
mod mixtures;
mod models;
mod noise;
mod optimizer;
mod output;
mod place;
mod ranks;
mod reporting;
mod rows;
mod survival;
mod templates;
mod tokenizers;
mod training;
mod turns;
mod yaml;
