//! Instruction data, tokenized and kept.
//!
//! | file | what it is |
//! |---|---|
//! | [`arguments`] | the options that say what is trained on |
//! | [`prepare`] | all of it together, kept for the next run |
//! | [`encode`] | encodes records into a file of examples |
//! | [`demands`] | what the examples demand of a model |
//! | [`store`] | tokenized examples in a file |
//! | `show` | an example for people |
//! | `untrained` | what is not trained, and why |

pub mod arguments;
pub mod demands;
pub mod encode;
pub mod prepare;
mod show;
pub mod store;
mod untrained;

pub use arguments::DataArguments;
pub use encode::EncodedFile;
pub use prepare::{Prepared, Texts};

#[cfg(test)]
mod tests;
