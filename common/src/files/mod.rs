//! Reads files that other programs made: regular files only, of at most the size that their kind may have.
//!
//! A FIFO, a device or an endless file in place of a config.json would hang a tool or fill the memory. A
//! file is opened once, without waiting, and its kind and size are asked of the open file. Large files are
//! read through memory maps (`map`, `shortened`).

mod map;
mod shortened;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;

use crate::{Context, Error, Result, bail};

pub(crate) use map::Map;
pub use map::check_unchanged;

/// Most bytes of a configuration: config.json, generation_config.json, adapter_config.json, a
/// template, a settings file.
pub const CONFIG: u64 = 4 << 20;
/// Most bytes of the index of a sharded checkpoint.
pub const INDEX: u64 = 64 << 20;
/// Most bytes of the logs that a checkpoint of training holds.
pub const PROGRESS: u64 = 256 << 20;
/// Most bytes of a tokenizer_config.json, which may list every added token.
pub const TOKENIZER_CONFIG: u64 = 32 << 20;
/// Most bytes of a tokenizer.json. The largest public ones have 35 MB.
pub const TOKENIZER: u64 = 128 << 20;

/// Opens a regular file for reading. A directory, a FIFO, a socket or a device is refused, and no
/// open waits for another process.
pub fn open(path: &Path) -> Result<File> {
    let named = || path.display().to_string();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let kind = file.metadata().with_context(named)?.file_type();
    if kind.is_dir() {
        bail!(Missing, "{} is a directory, not a file", path.display());
    }
    if !kind.is_file() {
        bail!(Malformed, "{} is not a regular file", path.display());
    }
    Ok(file)
}

/// Reads a whole regular file of at most `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The length may change while it is read, so the bound is on what is read.
    open(path)?
        .take(most + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > most {
        bail!(TooLarge, "{} has more than {} MiB", path.display(), most >> 20);
    }
    Ok(bytes)
}

/// Reads a whole regular file of at most `most` bytes that holds UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read(path, most)?).map_err(|error| Error::malformed(error).context(path.display()))
}

/// Reads a JSON file of at most `most` bytes.
pub fn read_json<T: DeserializeOwned>(path: &Path, most: u64) -> Result<T> {
    serde_json::from_slice(&read(path, most)?).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn only_regular_files_of_a_sensible_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(read_text(&path, 2).unwrap(), "{}");
        assert_eq!(read(&path, 1).unwrap_err().kind(), Kind::TooLarge);
        assert!(read(directory.path(), 9).unwrap_err().to_string().contains("is a directory"));
        assert_eq!(read(&directory.path().join("none"), 9).unwrap_err().kind(), Kind::Missing);
        let error = read(Path::new("/dev/zero"), 9).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn a_fifo_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        let error = read(&path, 9).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
