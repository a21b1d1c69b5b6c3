//! Zip archives, read by the `zip` crate within bounds.

use std::io::{Cursor, Read};
use std::sync::Mutex;

use ::zip::ZipArchive;
use common::{Context, Error, Result, bail, error};

use super::{Budget, MOST_FILE_BYTES};

/// A zip archive in memory.
pub(super) struct Zip {
    archive: Mutex<ZipArchive<Cursor<Vec<u8>>>>,
    /// Names of the files, and where each is in the directory of the archive.
    entries: Vec<(String, usize)>,
}

impl Zip {
    /// Reads the directory of an archive. Links, entries that share bytes, names that are there twice,
    /// and sizes beyond the bounds are refused before anything is unpacked.
    pub(super) fn open(bytes: Vec<u8>) -> Result<Self> {
        let mut archive = ZipArchive::new(Cursor::new(bytes))
            .map_err(|problem| error!(Malformed, "not a whole zip archive: {problem}"))?;
        if archive.has_overlapping_entries().map_err(Error::malformed)? {
            bail!(Malformed, "files of it share the same bytes");
        }
        let (mut entries, mut budget) = (Vec::new(), Budget::default());
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(Error::malformed)?;
            let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
            if entry.is_symlink() {
                bail!(Malformed, "{name:?} is a link");
            }
            if entry.is_dir() {
                continue;
            }
            if entry.encrypted() {
                bail!(Unsupported, "{name:?} is encrypted");
            }
            budget.spend(&name, entry.size())?;
            entries.push((name, index));
        }
        entries.sort();
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            bail!(Malformed, "{:?} is in it twice", pair[0].0);
        }
        Ok(Self { archive: Mutex::new(archive), entries })
    }

    /// Returns the names of the files.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// Reads the bytes of a file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let at = self.entries.binary_search_by(|(known, _)| known.as_str().cmp(name));
        let (_, index) = self.entries[at.map_err(|_| error!(Missing, "no such file"))?];
        let mut archive = self.archive.lock().map_err(|_| error!(Bug, "the archive is poisoned"))?;
        let entry = archive.by_index(index).map_err(|problem| error!(Unsupported, "{problem}"))?;
        let size = entry.size();
        let mut bytes = Vec::new();
        // An entry may unpack to more than it says.
        entry.take(MOST_FILE_BYTES + 1).read_to_end(&mut bytes).context("cannot be unpacked")?;
        if bytes.len() as u64 != size {
            bail!(Malformed, "it says {size} bytes and unpacks to {}", bytes.len());
        }
        Ok(bytes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use ::zip::CompressionMethod::{Deflated, Stored};
    use ::zip::ZipWriter;
    use ::zip::write::SimpleFileOptions;

    use super::*;

    /// An archive with every second file deflated.
    pub(crate) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        for (index, (name, content)) in files.iter().enumerate() {
            let method = if index % 2 == 1 { Deflated } else { Stored };
            archive.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            archive.write_all(content).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    /// Where the entry of the only file is in the directory of an archive.
    fn directory_entry(bytes: &[u8]) -> usize {
        bytes.windows(4).position(|four| four == b"PK\x01\x02").unwrap()
    }

    #[test]
    fn other_bytes_are_never_returned() {
        let whole = zip(&[("a", b"stored"), ("b", b"deflated deflated")]);
        for at in 0..whole.len() {
            assert!(Zip::open(whole[..at].to_vec()).is_err(), "cut at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 0x55;
            if let Ok(archive) = Zip::open(flipped) {
                for (name, content) in [("a", &b"stored"[..]), ("b", b"deflated deflated")] {
                    assert!(archive.read(name).map_or(true, |found| found == content), "flipped at {at}");
                }
            }
        }
    }

    #[test]
    fn a_link_and_sizes_beyond_reason_are_refused() {
        let bytes = zip(&[("a", b"../secret")]);
        let entry = directory_entry(&bytes);
        let mut huge = bytes.clone();
        huge[entry + 24..entry + 28].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
        let error = Zip::open(huge).err().unwrap().to_string();
        assert!(error.contains("\"a\": 4294967280 bytes is more than"), "{error}");
        let mut link = bytes;
        link[entry + 5] = 3; // made by Unix
        link[entry + 38..entry + 42].copy_from_slice(&(0o120_777_u32 << 16).to_le_bytes());
        let error = Zip::open(link).err().unwrap().to_string();
        assert!(error.contains("\"a\" is a link"), "{error}");
    }

    #[test]
    fn a_bomb_that_hides_its_size_is_cut_off() {
        let mut bytes = zip(&[("a", b""), ("b", &vec![0; 1 << 20])]);
        for signature in [b"PK\x01\x02", b"PK\x03\x04"] {
            let at = bytes.windows(4).rposition(|four| four == signature).unwrap();
            let size = at + if signature == b"PK\x01\x02" { 24 } else { 22 };
            bytes[size..size + 4].copy_from_slice(&9_u32.to_le_bytes());
        }
        let error = Zip::open(bytes).and_then(|archive| archive.read("b")).unwrap_err().to_string();
        assert!(error.contains("9 bytes") || error.contains("unpacked"), "{error}");
    }

    #[test]
    fn entries_that_share_bytes_are_refused() {
        // Two entries of the directory that point to the first file's header.
        let mut bytes = zip(&[("a", &[0; 1000]), ("b", b"x")]);
        let at = bytes.windows(4).rposition(|four| four == b"PK\x01\x02").unwrap();
        bytes[at + 42..at + 46].copy_from_slice(&0_u32.to_le_bytes());
        let error = Zip::open(bytes).err().unwrap().to_string();
        assert!(error.contains("share the same bytes"), "{error}");
    }
}
