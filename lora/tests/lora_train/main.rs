//! `lora-train` as a user runs it, on a tiny model.

#![allow(clippy::unwrap_used)] // a test file as a whole

mod data;
mod memory;
mod noise;
mod optimizer;
mod output;
mod place;
mod reporting;
mod rows;
mod survival;
mod training;
mod yaml;
