//! What tests of several tools share.

pub mod dir;
pub mod experts;
pub mod golden_model;
pub mod hollow_model;
pub mod hostile;
pub mod hub;
pub mod kill;
pub mod needs;
pub mod random_model;
pub mod ranks;
pub mod tiny_model;
pub mod tolerance;
