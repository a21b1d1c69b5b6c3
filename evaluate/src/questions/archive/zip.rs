//! Zip archives: the parts of the format that archives of data sets use.
//!
//! The directory at the end of the archive names every file, its sizes and where it begins (APPNOTE
//! 4.3.12); a file is stored or deflated (methods 0 and 8).

use std::collections::BTreeMap;

use common::{Result, bail, error};

use super::MOST_FILE_BYTES;

const END_OF_DIRECTORY: u32 = 0x0605_4b50;
const DIRECTORY_ENTRY: u32 = 0x0201_4b50;
/// The kind of a file in the attributes that Unix gives it, and the kind of a link.
const KIND: u32 = 0o170_000 << 16;
const LINK: u32 = 0o120_000 << 16;

/// A zip archive in memory.
pub struct Zip {
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
    attributes: u32,
}

impl Zip {
    /// Reads the directory of an archive.
    pub fn open(bytes: Vec<u8>) -> Result<Self> {
        let mut entries = directory(&bytes).ok_or_else(|| error!(Malformed, "not a whole zip archive"))?;
        if let Some((name, _)) = entries.iter().find(|(_, entry)| entry.attributes & KIND == LINK) {
            bail!(Malformed, "{name:?} is a link");
        }
        entries.retain(|name, _| !name.ends_with('/'));
        Ok(Self { bytes, entries })
    }

    /// Names of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The bytes of a file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let entry = self.entries.get(name).ok_or_else(|| error!(Malformed, "no such file"))?;
        let packed =
            data(&self.bytes, entry).ok_or_else(|| error!(Malformed, "beyond the end of the archive"))?;
        let bytes = match entry.method {
            _ if entry.unpacked as u64 > MOST_FILE_BYTES => {
                bail!(Malformed, "{} bytes is more than is sensible", entry.unpacked)
            }
            0 => packed.to_vec(),
            8 => miniz_oxide::inflate::decompress_to_vec_with_limit(packed, entry.unpacked)
                .map_err(|problem| error!(Malformed, "cannot be unpacked: {problem}"))?,
            other => {
                bail!(Unsupported, "packed by method {other}, and only 0 (stored) and 8 (deflate) are known")
            }
        };
        if bytes.len() != entry.unpacked || crc32fast::hash(&bytes) != entry.crc {
            bail!(Malformed, "its checksum is wrong");
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
            attributes: u32_at(bytes, at + 38)?,
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
    fn a_link_and_a_size_beyond_reason_are_refused() {
        let mut bytes = zip(&[("a", b"../secret")]);
        let entry = bytes.windows(4).position(|four| four == DIRECTORY_ENTRY.to_le_bytes()).unwrap();
        let mut huge = bytes.clone();
        huge[entry + 24..entry + 28].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = Zip::open(huge).unwrap().read("a").unwrap_err();
        assert!(error.to_string().contains("more than is sensible"), "{error}");
        bytes[entry + 38..entry + 42].copy_from_slice(&(0o120_777u32 << 16).to_le_bytes());
        let error = Zip::open(bytes).err().unwrap();
        assert!(error.to_string().contains("\"a\" is a link"), "{error}");
    }
}
