//! Fine-tunes LoRA adapters on a frozen model.
//!
//! | module | what it is |
//! |---|---|
//! | [`data`] | instruction data: files of examples, read and tokenized |

pub mod data;
