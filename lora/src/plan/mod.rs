//! What is decided about a run before its first step.
//!
//! | file | what it is |
//! |---|---|
//! | [`order`] | the held-out examples, and the examples of each step |
//! | [`packs`] | examples put together up to the cutoff |
//! | [`memory`] | where memory goes: the tokens of a pass, and the blocks that are computed again |

pub mod memory;
pub mod order;
pub mod packs;
