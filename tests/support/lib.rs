//! What tests of several tools share.

pub mod hub;
