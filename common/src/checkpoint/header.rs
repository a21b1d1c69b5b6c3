//! The header of a safetensors file: eight bytes of length, JSON, then the tensors' bytes.
//!
//! Format: <https://huggingface.co/docs/safetensors/index#format>. Everything is checked before a
//! byte of data is touched: lengths against the file, offsets against each other (no gap, no
//! overlap, nothing left over) and each tensor's size against its shape and dtype.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::{Result, bail, error};

/// The longest header that the safetensors format allows, in bytes.
const LONGEST: usize = 100_000_000;
/// The most tensors of a file, or of an index: twice what the largest public models have.
pub(super) const MOST_TENSORS: usize = 200_000;
/// Bytes of the length in front of the header.
const PREFIX: usize = 8;

/// A header whose lengths, offsets and sizes have been checked.
#[derive(Debug)]
pub(super) struct Header {
    /// The tensors in the order of their bytes.
    pub tensors: Vec<TensorEntry>,
}

/// One tensor of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorEntry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// The range of its bytes in the file.
    pub range: Range<usize>,
}

/// The number of bytes of a tensor, or `None` where it overflows or is not whole. The other dimensions
/// of a tensor without elements must not overflow either, so that no partial product of a shape can.
pub(super) fn size_in_bytes(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let bits = shape.iter().try_fold(dtype.bitsize(), |product, &size| product.checked_mul(size.max(1)))?;
    let bits = if shape.contains(&0) { 0 } else { bits };
    bits.is_multiple_of(8).then_some(bits / 8)
}

impl Header {
    /// Reads the header of a whole file's bytes. Errors name the tensor; the caller names the file.
    pub(super) fn read(file: &[u8]) -> Result<Self> {
        let Some((prefix, rest)) = file.split_first_chunk::<PREFIX>() else {
            bail!(Malformed, "the file has {} bytes, a safetensors file has at least {PREFIX}", file.len());
        };
        let length = usize::try_from(u64::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > LONGEST {
            bail!(
                Malformed,
                "the header claims {length} bytes, more than the {LONGEST} that safetensors allows"
            );
        }
        let Some(header) = rest.get(..length) else {
            bail!(Malformed, "the header claims {length} bytes, the file has {} left", rest.len());
        };
        let Raw { tensors } = serde_json::from_slice(header)
            .map_err(|source| error!(Malformed, "the header is not what safetensors writes: {source}"))?;
        let start = PREFIX + length;
        let tensors = place(tensors, start, file.len() - start)?;
        Ok(Self { tensors })
    }
}

/// Checks the tensors' offsets and sizes against `available` bytes of data and makes them absolute.
fn place(mut tensors: Vec<(String, TensorInfo)>, start: usize, available: usize) -> Result<Vec<TensorEntry>> {
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        if from != end {
            let fault = if from < end { "overlaps the tensor before it" } else { "leaves a gap before it" };
            bail!(Malformed, "tensor {name} begins at byte {from} where {end} was expected: it {fault}");
        }
        let Some(size) = size_in_bytes(info.dtype, &info.shape) else {
            bail!(Malformed, "tensor {name} has the impossible shape {:?} of {}", info.shape, info.dtype);
        };
        if to.checked_sub(from) != Some(size) {
            bail!(
                Malformed,
                "tensor {name} spans bytes {from} to {to}, but {:?} of {} takes {size} bytes",
                info.shape,
                info.dtype
            );
        }
        if to > available {
            bail!(Malformed, "tensor {name} ends at byte {to} of {available}: the file is truncated");
        }
        end = to;
        entries.push(TensorEntry {
            name,
            dtype: info.dtype,
            shape: info.shape,
            range: start + from..start + to,
        });
    }
    if end != available {
        bail!(Malformed, "the tensors end at byte {end} of {available}: something else follows them");
    }
    Ok(entries)
}

/// The JSON of a header before its check. A name that occurs twice is an error.
struct Raw {
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tensor names to dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut seen = HashSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if seen.len() > MOST_TENSORS {
                return Err(serde::de::Error::custom(format!("it has more than {MOST_TENSORS} tensors")));
            }
            if !seen.insert(name.clone()) {
                return Err(serde::de::Error::custom(format!("{name} occurs twice")));
            }
            if name == "__metadata__" {
                map.next_value::<BTreeMap<String, String>>()?;
            } else {
                let info: TensorInfo = map
                    .next_value()
                    .map_err(|source| serde::de::Error::custom(format!("tensor {name}: {source}")))?;
                tensors.push((name, info));
            }
        }
        Ok(Raw { tensors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    fn error_of(header: &str, data: usize) -> String {
        Header::read(&file(header, data)).unwrap_err().to_string()
    }

    #[test]
    fn reads_what_is_there() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]},
            "a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},
            "empty":{"dtype":"F32","shape":[0,4],"data_offsets":[11,11]}}  "#;
        let read = Header::read(&file(header, 11)).unwrap();
        let names: Vec<&str> = read.tensors.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "empty"]);
        let start = 8 + header.len();
        assert_eq!(read.tensors[1].range, start + 8..start + 11);
        assert_eq!(read.tensors[0].shape, [2, 2]);
    }

    #[test]
    fn every_fault_is_named() {
        let one = |shape: &str, from: u64, to: u64| {
            format!(r#"{{"w":{{"dtype":"BF16","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
        };
        assert!(
            error_of(&one("[2]", 0, 4), 3).contains("tensor w ends at byte 4 of 3: the file is truncated")
        );
        assert!(error_of(&one("[2]", 0, 4), 5).contains("something else follows"));
        assert!(error_of(&one("[2]", 1, 5), 5).contains("gap"));
        assert!(error_of(&one("[3]", 0, 4), 4).contains("[3] of BF16 takes 6 bytes"));
        assert!(error_of(&one("[2]", 4, 0), 4).contains("where 0 was expected"));
        let huge = one("[4294967296,4294967296,4294967296]", 0, 4);
        assert!(error_of(&huge, 4).contains("impossible shape"), "{}", error_of(&huge, 4));
        let huge_and_empty = one("[0,4611686018427387904]", 0, 0);
        assert!(error_of(&huge_and_empty, 0).contains("impossible shape"));
        let overlap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
            "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
        assert!(error_of(overlap, 6).contains("tensor b begins at byte 2 where 4 was expected: it overlaps"));
        let twice = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
            "a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#;
        assert!(error_of(twice, 8).contains("a occurs twice"));
        let unknown = r#"{"a":{"dtype":"F5","shape":[4],"data_offsets":[0,4]}}"#;
        assert!(error_of(unknown, 4).contains("tensor a: unknown variant `F5`"), "{}", error_of(unknown, 4));
        assert!(error_of("[1]", 0).contains("not what safetensors writes"));
    }

    #[test]
    fn there_is_a_most_of_tensors() {
        let tensor = |i: usize| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
        let header: Vec<String> = (0..MOST_TENSORS + 2).map(tensor).collect();
        assert!(error_of(&format!("{{{}}}", header.join(",")), 0).contains("more than 200000 tensors"));
    }

    #[test]
    fn the_length_is_checked_before_it_is_believed() {
        let read = |bytes: &[u8]| Header::read(bytes).unwrap_err().to_string();
        assert!(read(&[1, 2, 3]).contains("has 3 bytes"));
        assert!(read(&u64::MAX.to_le_bytes()).contains("more than the 100000000"));
        assert!(read(&50_u64.to_le_bytes()).contains("claims 50 bytes, the file has 0 left"));
    }
}
