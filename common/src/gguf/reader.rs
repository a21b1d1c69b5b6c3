//! Reads a GGUF file: its metadata, and its tensors from a memory map.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::metadata::{read_text, read_u32, read_u64};
use super::{ALIGNMENT, MAGIC, Metadata, TensorInfo, TensorType, VERSION, Value};
use crate::checkpoint::Bytes;
use crate::{Context, Result, bail};

/// Most dimensions of a tensor.
const DIMENSIONS: u32 = 4;
/// Most keys; files have dozens.
const MOST_KEYS: u64 = 4096;

/// A GGUF file of version 3.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    /// The keys and values in front of the tensors.
    pub metadata: Metadata,
    tensors: HashMap<String, (TensorInfo, Bytes)>,
}

impl GgufFile {
    /// Opens a file and checks that all its tensors are within it, in whole blocks.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = Bytes::map(path)?;
        Self::parse(path, &bytes).with_context(|| format!("cannot read {} as GGUF", path.display()))
    }

    /// Reads the bytes of the file `path`.
    pub(crate) fn parse(path: &Path, file: &Bytes) -> Result<Self> {
        let mut position = 0;
        let mut take = |count: usize| -> Result<&[u8]> {
            let Some(bytes) = file.get(position..).and_then(|rest| rest.get(..count)) else {
                bail!(Malformed, "the file ends within its header");
            };
            position += count;
            Ok(bytes)
        };
        if take(MAGIC.len())? != MAGIC {
            bail!(Malformed, "the file does not begin with GGUF");
        }
        let version = read_u32(&mut take)?;
        if version != VERSION {
            bail!(Unsupported, "version {VERSION} expected, found {version}");
        }
        let (tensor_count, key_count) = (read_u64(&mut take)?, read_u64(&mut take)?);
        if key_count > MOST_KEYS {
            bail!(TooLarge, "{key_count} keys, expected at most {MOST_KEYS}");
        }
        let mut metadata = Metadata::default();
        for _ in 0..key_count {
            let key = read_text(&mut take)?;
            if let Some(value) = Value::read(&mut take).with_context(|| key.clone())? {
                metadata.set(key, value);
            }
        }
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            let name = read_text(&mut take)?;
            let dimensions = read_u32(&mut take)?;
            if dimensions > DIMENSIONS {
                bail!(
                    Malformed,
                    "tensor {name}: at most {DIMENSIONS} dimensions expected, found {dimensions}"
                );
            }
            let mut shape = Vec::new();
            for _ in 0..dimensions {
                shape.insert(0, read_u64(&mut take)? as usize);
            }
            if shape.is_empty() || shape.contains(&0) {
                bail!(Malformed, "tensor {name} {shape:?} has no elements");
            }
            let id = read_u32(&mut take)?;
            let Some(kind) = TensorType::from_id(id) else {
                bail!(Unsupported, "tensor {name} is of type {id}");
            };
            infos.push((TensorInfo { name, shape, kind }, read_u64(&mut take)?));
        }
        let alignment = match metadata.get("general.alignment") {
            Some(Value::U32(alignment)) => u64::from(*alignment).max(1),
            _ => ALIGNMENT,
        };
        let start = (position as u64).next_multiple_of(alignment);
        let mut tensors = HashMap::new();
        for (info, offset) in infos {
            if !info.columns().is_multiple_of(info.kind.block_elements()) {
                bail!(
                    Malformed,
                    "tensor {} {:?} is not of whole blocks of {}",
                    info.name,
                    info.shape,
                    info.kind
                );
            }
            let range = info.size().and_then(|size| {
                let begin = start.checked_add(offset)?;
                Some(usize::try_from(begin).ok()?..usize::try_from(begin.checked_add(size)?).ok()?)
            });
            let Some(bytes) = range.and_then(|range| file.slice(range)) else {
                bail!(Malformed, "the file ends within tensor {}", info.name);
            };
            if let Some((info, _)) = tensors.insert(info.name.clone(), (info, bytes)) {
                bail!(Malformed, "tensor {} is there twice", info.name);
            }
        }
        Ok(Self { path: path.to_path_buf(), metadata, tensors })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The information about a tensor, and its bytes.
    pub fn tensor(&self, name: &str) -> Result<(&TensorInfo, &Bytes)> {
        match self.tensors.get(name) {
            Some((info, bytes)) => Ok((info, bytes)),
            None => bail!(Malformed, "{} has no tensor {name}", self.path.display()),
        }
    }

    /// The information about all tensors, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.values().map(|(info, _)| info)
    }
}
