//! Instruction data, tokenized and kept in a file.
//!
//! | file | what it is |
//! |---|---|
//! | [`arguments`] | the options that say what is trained on |
//! | [`prepare`] | all data of a run, tokenized or found again in the cache |
//! | [`encode`] | encodes records into a file of examples |
//! | [`demands`] | what the examples demand of a model |
//! | `share` | the data that rank 0 has prepared, on all ranks |
//! | [`store`] | tokenized examples in a file |
//! | `show` | an example as text |
//! | `untrained` | the warnings about answers that are not trained |

pub mod arguments;
pub mod demands;
pub mod encode;
pub mod prepare;
mod share;
mod show;
pub mod store;
mod untrained;

pub use arguments::DataArguments;
pub use encode::EncodedFile;
pub use prepare::{Prepared, Texts};

#[cfg(test)]
mod tests;
