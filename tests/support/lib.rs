//! What tests of several tools share.

pub mod hub;
pub mod tiny_model;
