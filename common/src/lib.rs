//! What the five tools share.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | the command-line contract: paths in and out, progress, exit codes |
//! | [`error`] | the one error type: what went wrong, and the `hint:` that mends it |

pub mod cli;
pub mod error;

pub use error::{Context, Error, Result};
