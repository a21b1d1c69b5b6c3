//! Models as llama.cpp names and stores them, in GGUF files.
//!
//! | file | what it is |
//! |---|---|
//! | `families` | the families that both know, with the names of their tensors in checkpoints and in GGUF |
//! | `config` | the config.json of a file |
//! | `weights` | the tensors of a file as those of a checkpoint |
//! | `texts` | tokenizer, chat template and settings of generation of a file |
//! | `pre_tokenizers` | the ways to cut a text that are read, under llama.cpp's names |
//!
//! A file is read as a model's directory is: [`crate::model::Config::read`], [`crate::model::Weights::open`] and
//! [`crate::models::ModelArguments::text_files`] take its path.

mod config;
pub mod families;
mod pre_tokenizers;
mod texts;
mod weights;

use std::path::Path;

use crate::cli;

pub use config::{config_json, llama3_factors};
pub use families::{Family, Named, neighbours};
pub use texts::text_files;
pub use weights::checkpoint;

/// Whether a path names a GGUF file and not a directory.
pub fn is_file(path: &Path) -> bool {
    cli::is_gguf(path) && !path.is_dir()
}
