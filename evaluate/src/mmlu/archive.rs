//! Files in a zip archive, as MMLU is handed out: the parts of the format that such archives use.
//!
//! The directory at the end of the archive names every file, its sizes and where it begins (APPNOTE
//! 4.3.12); a file is stored or deflated (methods 0 and 8).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Context, Result, bail, error};

/// Most bytes that a file may unpack to.
const MOST_BYTES: usize = 256 << 20;

const END_OF_DIRECTORY: u32 = 0x0605_4b50;
const DIRECTORY_ENTRY: u32 = 0x0201_4b50;

/// A zip archive in memory.
pub struct Archive {
    path: PathBuf,
    bytes: Vec<u8>,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    method: u16,
    crc: u32,
    packed: usize,
    unpacked: usize,
    /// Where the file's own header begins.
    header: usize,
}

impl Archive {
    /// Reads the directory of an archive.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs_err::read(path)?;
        let entries = directory(&bytes)
            .ok_or_else(|| error!("{}: not a whole zip archive", path.display()).hint("download it again"))?;
        Ok(Self { path: path.to_path_buf(), bytes, entries })
    }

    /// Names of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The bytes of a file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let place = || format!("{}, {name}", self.path.display());
        let entry = self.entries.get(name).ok_or_else(|| error!("{}: no such file in it", place()))?;
        self.unpack(entry).with_context(place).hint("download the archive again")
    }

    fn unpack(&self, entry: &Entry) -> Result<Vec<u8>> {
        let packed = data(&self.bytes, entry).ok_or_else(|| error!("beyond the end of the archive"))?;
        let bytes = match entry.method {
            _ if entry.unpacked > MOST_BYTES => bail!("{} bytes is more than is sensible", entry.unpacked),
            0 => packed.to_vec(),
            8 => miniz_oxide::inflate::decompress_to_vec_with_limit(packed, entry.unpacked)
                .map_err(|problem| error!("cannot be unpacked: {problem}"))?,
            other => bail!("packed by method {other}, and only 0 (stored) and 8 (deflate) are known"),
        };
        if bytes.len() != entry.unpacked || crc32fast::hash(&bytes) != entry.crc {
            bail!("its checksum is wrong");
        }
        Ok(bytes)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32_at(bytes, at)?).ok()
}

/// The files that the directory names. It is found by its end, which only a comment may follow.
fn directory(bytes: &[u8]) -> Option<BTreeMap<String, Entry>> {
    let last = bytes.len().checked_sub(22)?;
    let end = (last.saturating_sub(usize::from(u16::MAX))..=last)
        .rev()
        .find(|&at| u32_at(bytes, at) == Some(END_OF_DIRECTORY))?;
    let mut at = usize_at(bytes, end + 16)?;
    let mut entries = BTreeMap::new();
    for _ in 0..u16_at(bytes, end + 10)? {
        if u32_at(bytes, at)? != DIRECTORY_ENTRY {
            return None;
        }
        let name_len = usize::from(u16_at(bytes, at + 28)?);
        let extra_len = usize::from(u16_at(bytes, at + 30)?) + usize::from(u16_at(bytes, at + 32)?);
        let name = String::from_utf8_lossy(bytes.get(at + 46..at + 46 + name_len)?).into_owned();
        let entry = Entry {
            method: u16_at(bytes, at + 10)?,
            crc: u32_at(bytes, at + 16)?,
            packed: usize_at(bytes, at + 20)?,
            unpacked: usize_at(bytes, at + 24)?,
            header: usize_at(bytes, at + 42)?,
        };
        entries.insert(name, entry);
        at += 46 + name_len + extra_len;
    }
    Some(entries)
}

/// The packed bytes of a file, behind its own header, whose name and extra field have lengths of
/// their own.
fn data<'a>(bytes: &'a [u8], entry: &Entry) -> Option<&'a [u8]> {
    let name_len = usize::from(u16_at(bytes, entry.header.checked_add(26)?)?);
    let extra_len = usize::from(u16_at(bytes, entry.header + 28)?);
    let start = entry.header + 30 + name_len + extra_len;
    bytes.get(start..start.checked_add(entry.packed)?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An archive as `zip` writes it, with every second file deflated.
    pub fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut bytes, mut directory) = (Vec::new(), Vec::new());
        for (index, (name, content)) in files.iter().enumerate() {
            let deflate = index % 2 == 1;
            let packed = match deflate {
                true => miniz_oxide::deflate::compress_to_vec(content, 6),
                false => content.to_vec(),
            };
            let mut fields = Vec::new();
            fields.extend([20, 0, 0, 0, if deflate { 8 } else { 0 }, 0, 0, 0, 0, 0]);
            fields.extend(crc32fast::hash(content).to_le_bytes());
            fields.extend((packed.len() as u32).to_le_bytes());
            fields.extend((content.len() as u32).to_le_bytes());
            fields.extend((name.len() as u16).to_le_bytes());
            let header = bytes.len() as u32;
            bytes.extend(0x0403_4b50u32.to_le_bytes());
            bytes.extend(&fields);
            // An extra field that the directory does not have.
            bytes.extend([4, 0]);
            bytes.extend(name.as_bytes());
            bytes.extend([1, 2, 0, 0]);
            bytes.extend(&packed);
            directory.extend(DIRECTORY_ENTRY.to_le_bytes());
            directory.extend([20, 0]);
            directory.extend(&fields);
            directory.extend([0; 12]);
            directory.extend(header.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let (start, len, count) = (bytes.len() as u32, directory.len() as u32, files.len() as u16);
        bytes.extend(directory);
        bytes.extend(END_OF_DIRECTORY.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(count.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(start.to_le_bytes());
        bytes.extend([0, 0]);
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Archive> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), bytes).unwrap();
        Archive::open(file.path())
    }

    #[test]
    fn stored_and_deflated_files_are_read() {
        let long = b"row,1,2,3,4,A\n".repeat(100);
        let archive = open(&zip(&[("a/b.csv", b"stored"), ("c.csv", &long)])).unwrap();
        assert_eq!(archive.names().collect::<Vec<_>>(), ["a/b.csv", "c.csv"]);
        assert_eq!(archive.read("a/b.csv").unwrap(), b"stored");
        assert_eq!(archive.read("c.csv").unwrap(), long);
        assert!(archive.read("d.csv").is_err());
    }

    #[test]
    fn broken_archives_are_errors() {
        let whole = zip(&[("a", b"stored"), ("b", b"deflated deflated")]);
        for at in 0..whole.len() {
            assert!(open(&whole[..at]).is_err(), "cut at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 0x55;
            // Whatever it says: no panic, and never other bytes.
            if let Ok(archive) = open(&flipped) {
                for (name, content) in [("a", &b"stored"[..]), ("b", b"deflated deflated")] {
                    assert!(archive.read(name).map_or(true, |found| found == content), "flipped at {at}");
                }
            }
        }
    }
}
