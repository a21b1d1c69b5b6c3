//! Instruction data, tokenized and kept.
//!
//! | file | what it is |
//! |---|---|
//! | [`arguments`] | the options that say what is trained on |
//! | [`prepare`] | all of it together, kept for the next run |
//! | [`encode`] | conversations as tokens with the trained ones marked, in parallel |
//! | [`store`] | tokenized examples in a file |
//! | `show` | an example for people |

pub mod arguments;
pub mod encode;
pub mod prepare;
mod show;
pub mod store;

pub use arguments::DataArguments;
pub use encode::Encoder;
pub use prepare::{Prepared, Texts};

#[cfg(test)]
mod tests;
