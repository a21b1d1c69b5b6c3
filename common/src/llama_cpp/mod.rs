//! Models as llama.cpp names and stores them, in GGUF files.
//!
//! | file | what it is |
//! |---|---|
//! | `families` | the families that both know, with the names of their tensors in checkpoints and in GGUF |
//! | `config` | the config.json of a file |
//! | `keys` | values in the metadata of a file |
//! | `weights` | the tensors of a file as those of a checkpoint |
//! | `texts` | tokenizer, chat template and settings of generation of a file |
//! | `pre_tokenizers` | the ways to cut a text that are read, under llama.cpp's names |
//!
//! A file is read as a model's directory is: [`crate::model::Config::read`], [`crate::model::Weights::open`] and
//! [`crate::models::ModelArguments::text_files`] take its path.

mod config;
pub mod families;
mod keys;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Bytes;
    use crate::gguf::GgufFile;

    /// Reads all that the tools read of a file: config.json, the files of the tokenizer, the weights.
    fn read(bytes: Vec<u8>) -> crate::Result<usize> {
        let file = GgufFile::parse(Path::new("x.gguf"), &Bytes::from(bytes))?;
        let (_, family) = config_json(&file)?;
        texts::write(&file, tempfile::tempdir()?.path())?;
        Ok(checkpoint(&file, family, 16)?.names().count())
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_panic() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/gguf/llama.gguf");
        let whole = std::fs::read(golden).unwrap();
        assert!(read(whole.clone()).unwrap() > 10);
        // The header has 5 kB.
        let mut failed = 0;
        for at in (0..7000).step_by(3) {
            for byte in [0, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                failed += usize::from(read(damaged).is_err());
            }
        }
        assert!(failed > 100, "{failed}");
        for length in (0..whole.len()).step_by(977) {
            assert!(read(whole[..length].to_vec()).is_err(), "{length}");
        }
    }
}
