//! `lora-train` as a user runs it, on a tiny model.

#![allow(clippy::unwrap_used)] // a test file as a whole

mod data;
mod memory;
mod noise;
mod optimizer;
mod output;
mod place;
mod reporting;
mod survival;
mod tokenizers;
mod training;
mod yaml;
