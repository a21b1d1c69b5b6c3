//! `quantize` as a user runs it, on small models made here.

#![allow(clippy::unwrap_used)] // a test file as a whole

mod families;
mod hostile;
mod inputs;
mod kill;
mod model;
mod output;
mod results;
mod verifying;
