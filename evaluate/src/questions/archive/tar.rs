//! Tar archives, plain or packed by gzip.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use common::{Context, Result, bail, error};
use tar::EntryType;

use super::{Budget, MOST_BYTES};

/// A tar archive in memory.
pub(super) struct Tar {
    bytes: Vec<u8>,
    entries: BTreeMap<String, Range<usize>>,
}

/// Unpacks what gzip has packed.
pub(super) fn gunzip(packed: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut unpacked = flate2::read::MultiGzDecoder::new(packed).take(MOST_BYTES + 1);
    unpacked.read_to_end(&mut bytes).context("cannot be unpacked")?;
    if bytes.len() as u64 > MOST_BYTES {
        bail!(TooLarge, "it unpacks to more than {} MiB", MOST_BYTES >> 20);
    }
    Ok(bytes)
}

impl Tar {
    /// Reads where the files of an archive are.
    pub(super) fn open(bytes: Vec<u8>) -> Result<Self> {
        let (mut entries, mut budget) = (BTreeMap::new(), Budget::default());
        let mut archive = tar::Archive::new(bytes.as_slice());
        for entry in archive.entries().context("not a tar archive")? {
            let entry = entry.context("neither a zip nor a tar archive, or cut off")?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {}
                EntryType::Directory | EntryType::XGlobalHeader => continue,
                EntryType::Symlink | EntryType::Link => bail!(Malformed, "{name:?} is a link"),
                other => bail!(Malformed, "{name:?} is neither a file nor a folder but of type {other:?}"),
            }
            budget.spend(&name, entry.size())?;
            let range = usize::try_from(entry.raw_file_position())
                .ok()
                .and_then(|start| Some(start..start.checked_add(usize::try_from(entry.size()).ok()?)?))
                .filter(|range| range.end <= bytes.len());
            entries.insert(name.clone(), range.ok_or_else(|| error!(Malformed, "{name:?} is cut off"))?);
        }
        if entries.is_empty() {
            bail!(Malformed, "no files in it");
        }
        Ok(Self { bytes, entries })
    }

    /// Returns the names of the files.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Reads the bytes of a file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let range = self.entries.get(name).ok_or_else(|| error!(Missing, "no such file"))?;
        Ok(self.bytes[range.clone()].to_vec())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// An archive as `tar` writes it.
    pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, *content).unwrap();
        }
        archive.into_inner().unwrap()
    }

    /// As `gzip` packs it.
    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    /// A header alone, whatever it says.
    fn header(kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path("a.csv").unwrap();
        header.set_size(size);
        header.set_entry_type(kind);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    #[test]
    fn links_devices_and_sizes_beyond_reason_are_refused() {
        for (kind, size, expected) in [
            (EntryType::Symlink, 0, "is a link"),
            (EntryType::Link, 0, "is a link"),
            (EntryType::Fifo, 0, "neither a file nor a folder"),
            (EntryType::Regular, 1 << 40, "more than the 128 MiB"),
            (EntryType::Regular, 5000, "cut off"),
        ] {
            let error = Tar::open([header(kind, size), vec![0; 1024]].concat()).err().unwrap();
            assert!(error.to_string().contains(expected), "{kind:?}: {error}");
        }
    }
}
