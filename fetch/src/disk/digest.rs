//! What the content of a file must hash to, and the hashing.

use std::io::Read;
use std::path::Path;

use common::{Context, Result, hex};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Bytes read at a time: small enough for the second-level cache.
const BLOCK: usize = 256 << 10;

/// A hash that a server vouches for, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Digest {
    /// SHA-256 of the content: files in large-file storage.
    Sha256(String),
    /// The git object name of the content: SHA-1 of `blob SIZE\0` and the content.
    GitSha1(String),
}

impl Digest {
    /// From 64 hexadecimal digits.
    pub(crate) fn sha256(hex: &str) -> Option<Self> {
        lower_hex(hex, 64).map(Self::Sha256)
    }

    /// From 40 hexadecimal digits.
    pub(crate) fn git_sha1(hex: &str) -> Option<Self> {
        lower_hex(hex, 40).map(Self::GitSha1)
    }

    /// The digits alone, which are also the name of the blob in the hub's cache.
    pub(crate) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitSha1(hex) => hex,
        }
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "sha256 {hex}"),
            Self::GitSha1(hex) => write!(f, "git sha1 {hex}"),
        }
    }
}

fn lower_hex(text: &str, length: usize) -> Option<String> {
    (text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
}

/// A hash being computed. sha2 uses the processor's SHA instructions where it has them.
pub(crate) enum Hasher {
    /// Towards [`Digest::Sha256`].
    Sha256(Sha256),
    /// Towards [`Digest::GitSha1`].
    GitSha1(Sha1),
}

impl Hasher {
    /// Begins the kind of hash that `digest` is, for a content of `size` bytes.
    pub(crate) fn like(digest: &Digest, size: u64) -> Self {
        match digest {
            Digest::Sha256(_) => Self::Sha256(Sha256::new()),
            Digest::GitSha1(_) => Self::GitSha1(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }

    /// Takes the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitSha1(hasher) => hasher.update(bytes),
        }
    }

    /// The hash of all bytes taken.
    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::Sha256(hex(hasher.finalize())),
            Self::GitSha1(hasher) => Digest::GitSha1(hex(hasher.finalize())),
        }
    }
}

/// Hashes the file at `path` the way `expected` was made.
pub(crate) fn hash_file(path: &Path, expected: &Digest) -> Result<Digest> {
    hash_file_counting(path, expected, |_| ())
}

/// Does what [`hash_file`] does, and calls `count` with the number of bytes of each read.
pub(crate) fn hash_file_counting(
    path: &Path,
    expected: &Digest,
    mut count: impl FnMut(u64),
) -> Result<Digest> {
    let file = common::files::open(path)?;
    let size = file.metadata()?.len();
    let mut hasher = Hasher::like(expected, size);
    // A file that grows for ever ends here all the same.
    let mut file = file.take(size);
    let mut block = vec![0; BLOCK];
    loop {
        common::cli::check_interrupted()?;
        let read = file.read(&mut block).with_context(|| path.display())?;
        if read == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&block[..read]);
        count(read as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_sha256sum_and_git() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), "hello\n").unwrap();
        let sha256 =
            Digest::sha256("5891B5B522D5DF086D0FF0B110FBD9D21BB4FC7163AF34D08286A2E846F6BE03").unwrap();
        let git = Digest::git_sha1("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let mut counted = 0;
        assert_eq!(hash_file_counting(file.path(), &sha256, |bytes| counted += bytes).unwrap(), sha256);
        assert_eq!(hash_file(file.path(), &git).unwrap(), git);
        assert_eq!(counted, 6);
    }

    #[test]
    fn what_is_no_hash_is_none() {
        assert_eq!(Digest::sha256("abc"), None);
        assert_eq!(Digest::sha256(&"g".repeat(64)), None);
        assert_eq!(Digest::git_sha1(&"a".repeat(64)), None);
    }
}
