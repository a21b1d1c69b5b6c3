//! What tells the weights of a directory from others, quickly.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Companions;
use crate::{Result, files, hex};

/// Number of places of a file that are sampled, and bytes of each sample.
const SAMPLES: u64 = 64;
const SAMPLE_BYTES: usize = 1 << 16;

/// Returns a SHA-256 over the names, the sizes and a spread sample of the bytes of a model's files, or of the one
/// file that it is; small files are sampled whole. Hashing all of a large model would take longer than some
/// evaluations.
pub fn fingerprint(model: &Path) -> Result<String> {
    if model.is_file() {
        return fingerprint_of(&[model.to_path_buf()]);
    }
    let weights = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "safetensors");
    let mut files: Vec<PathBuf> =
        fs_err::read_dir(model)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(weights);
    files.extend(Companions::of_text(model)?.files.into_iter().map(|companion| companion.path));
    let settings = ["config.json", "adapter_config.json"].map(|name| model.join(name));
    files.extend(settings.into_iter().filter(|path| path.exists()));
    files.sort();
    fingerprint_of(&files)
}

fn fingerprint_of(paths: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for path in paths {
        let mut file = files::open(path)?;
        let size = file.metadata()?.len();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        hash.update(format!("{name}\0{size}\0"));
        let stride = (size / SAMPLES).max(SAMPLE_BYTES as u64);
        let mut at = 0;
        while at < size {
            file.seek(SeekFrom::Start(at))?;
            let mut sample = Vec::with_capacity(SAMPLE_BYTES);
            (&mut file).take(SAMPLE_BYTES as u64).read_to_end(&mut sample)?;
            hash.update(&sample);
            at += stride;
        }
    }
    Ok(hex(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_weight_changes_the_fingerprint() {
        let directory = tempfile::tempdir().unwrap();
        let weights = directory.path().join("model.safetensors");
        let mut bytes = vec![0u8; 200_000];
        fs_err::write(&weights, &bytes).unwrap();
        let before = fingerprint(directory.path()).unwrap();
        fs_err::write(directory.path().join("notes.txt"), "notes").unwrap();
        assert_eq!(fingerprint(directory.path()).unwrap(), before, "notes do not matter");
        fs_err::write(directory.path().join("tokenizer_config.json"), "{}").unwrap();
        let with_settings = fingerprint(directory.path()).unwrap();
        assert_ne!(with_settings, before, "the chat template may be in it");
        bytes[123_456] = 1;
        fs_err::write(&weights, &bytes).unwrap();
        assert_ne!(fingerprint(directory.path()).unwrap(), with_settings);
    }
}
