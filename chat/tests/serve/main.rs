//! `chat --serve` as programs ask it over TCP, on a tiny model.

#![allow(clippy::unwrap_used)] // a test file as a whole

mod answers;
mod bounds;
mod client;
mod page;
mod requests;
mod start;
