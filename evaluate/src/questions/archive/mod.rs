//! Files in an archive, as data sets are handed out: zip, tar, and tar packed by gzip.
//!
//! Nothing is unpacked to disk. An archive that names places outside of itself, holds links, or
//! unpacks to more than is sensible is refused all the same: it is not what it should be.

mod tar;
mod zip;

use std::path::{Component, Path, PathBuf};

use common::{Context, Result, bail, error, files};

use tar::Tar;
use zip::Zip;

/// Most bytes that a file in an archive may have. All of MMLU has 7 MB.
const MOST_FILE_BYTES: u64 = 128 << 20;
/// Most bytes that a whole archive may have, and may unpack to.
const MOST_BYTES: u64 = 512 << 20;
/// Most files in an archive.
const MOST_FILES: usize = 10_000;

/// Endings of the names of archives.
pub(super) const ENDINGS: [&str; 4] = [".zip", ".tar", ".tar.gz", ".tgz"];

/// An archive in memory.
pub(super) struct Archive {
    path: PathBuf,
    format: Format,
}

enum Format {
    Zip(Zip),
    Tar(Tar),
}

/// The number and the bytes of the files that were counted so far.
#[derive(Default)]
struct Budget {
    files: usize,
    bytes: u64,
}

impl Budget {
    /// Counts a file of `size` bytes; an error where it, or all of them together, are too much.
    fn spend(&mut self, name: &str, size: u64) -> Result<()> {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        if size > MOST_FILE_BYTES {
            bail!(
                TooLarge,
                "{name:?}: {size} bytes is more than the {} MiB of a file",
                MOST_FILE_BYTES >> 20
            );
        }
        if self.bytes > MOST_BYTES {
            bail!(TooLarge, "it unpacks to more than {} MiB", MOST_BYTES >> 20);
        }
        if self.files > MOST_FILES {
            bail!(TooLarge, "it has more than {MOST_FILES} files");
        }
        Ok(())
    }
}

impl Archive {
    /// Reads the directory of an archive, whatever kind it is.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let open = || -> Result<Format> {
            let bytes = files::read(path, MOST_BYTES)?;
            Ok(match bytes.get(..2) {
                Some(b"PK") => Format::Zip(Zip::open(bytes)?),
                Some(b"\x1f\x8b") => Format::Tar(Tar::open(tar::gunzip(&bytes)?)?),
                _ => Format::Tar(Tar::open(bytes)?),
            })
        };
        let format = open().with_context(|| path.display().to_string());
        let archive = Self { path: path.to_path_buf(), format: format.hint("download the archive again")? };
        for name in archive.names() {
            let stays = Path::new(name)
                .components()
                .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            if !stays {
                return Err(error!("{}: {name:?} is a place outside of the archive", path.display())
                    .hint("download the data from its own repository"));
            }
        }
        Ok(archive)
    }

    /// Returns the names of the files.
    pub(super) fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.format {
            Format::Zip(zip) => Box::new(zip.names()),
            Format::Tar(tar) => Box::new(tar.names()),
        }
    }

    /// Reads the bytes of a file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let bytes = match &self.format {
            Format::Zip(zip) => zip.read(name),
            Format::Tar(tar) => tar.read(name),
        };
        bytes.with_context(|| self.place(name)).hint("download the archive again")
    }

    /// Returns what messages call a file of the archive.
    pub(super) fn place(&self, name: &str) -> String {
        format!("{}, {name}", self.path.display())
    }
}

#[cfg(test)]
pub(super) mod tests {
    pub(crate) use super::tar::tests::{gzip, tar};
    pub(crate) use super::zip::tests::zip;
    use super::*;

    /// Opens bytes as an archive.
    pub(crate) fn open(bytes: &[u8]) -> Result<Archive> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), bytes).unwrap();
        Archive::open(file.path())
    }

    const FILES: [(&str, &[u8]); 2] = [("data/a.csv", b"row,1,2,3,4,A\n"), ("b.csv", &[b'x'; 5000])];

    #[test]
    fn every_kind_of_archive_is_read() {
        for bytes in [zip(&FILES), tar(&FILES), gzip(&tar(&FILES))] {
            let archive = open(&bytes).unwrap();
            let mut names: Vec<&str> = archive.names().collect();
            names.sort_unstable();
            assert_eq!(names, ["b.csv", "data/a.csv"]);
            for (name, content) in FILES {
                assert_eq!(archive.read(name).unwrap(), content);
            }
            assert!(archive.read("c.csv").is_err());
        }
    }

    #[test]
    fn broken_archives_are_errors() {
        for whole in [zip(&FILES), tar(&FILES), gzip(&tar(&FILES))] {
            // A tar archive ends with a kibibyte of zeros, which may be missing.
            for at in (0..whole.len() - 2048.min(whole.len() / 2)).step_by(53) {
                let cut = open(&whole[..at]).and_then(|archive| {
                    FILES.iter().map(|(name, _)| archive.read(name)).collect::<Result<Vec<_>>>()
                });
                assert!(cut.is_err(), "cut at {at}");
                let mut flipped = whole.clone();
                flipped[at] ^= 0x55;
                // Whatever it says: no panic.
                if let Ok(archive) = open(&flipped) {
                    for name in archive.names().map(str::to_owned).collect::<Vec<_>>() {
                        let _ = archive.read(&name);
                    }
                }
            }
        }
        assert!(open(b"").is_err());
        assert!(open(&vec![7; 4096]).is_err());
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../a.csv", "/etc/a.csv", "data/../../a.csv"] {
            let error = open(&zip(&[(name, b"x")])).err().unwrap();
            assert!(error.to_string().contains("outside of the archive"), "{name}: {error}");
        }
    }
}
