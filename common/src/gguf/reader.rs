//! Reads a GGUF file: its metadata, and its tensors from a memory map.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::metadata::{read_text, read_u32, read_u64};
use super::{ALIGNMENT, MAGIC, Metadata, TensorInfo, TensorType, VERSION, Value};
use crate::checkpoint::Bytes;
use crate::{Context, Result, bail};

/// Most dimensions of a tensor.
const DIMENSIONS: u32 = 4;

/// A GGUF file of version 3 with the alignment that most files have.
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

    fn parse(path: &Path, file: &Bytes) -> Result<Self> {
        let mut position = 0;
        let mut take = |count: usize| -> Result<&[u8]> {
            let bytes = file.get(position..).and_then(|rest| rest.get(..count));
            position += count;
            match bytes {
                Some(bytes) => Ok(bytes),
                None => bail!(Malformed, "the file ends within its header"),
            }
        };
        if take(MAGIC.len())? != MAGIC {
            bail!(Malformed, "the file does not begin with GGUF");
        }
        let version = read_u32(&mut take)?;
        if version != VERSION {
            bail!(Unsupported, "version {VERSION} expected, found {version}");
        }
        let (tensor_count, key_count) = (read_u64(&mut take)?, read_u64(&mut take)?);
        let mut metadata = Metadata::default();
        for _ in 0..key_count {
            let key = read_text(&mut take)?;
            let value = Value::read(&mut take).with_context(|| key.clone())?;
            metadata.set(key, value);
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
            let id = read_u32(&mut take)?;
            let Some(kind) = TensorType::from_id(id) else {
                bail!(Unsupported, "tensor {name} is of type {id}");
            };
            infos.push((TensorInfo { name, shape, kind }, read_u64(&mut take)?));
        }
        let start = (position as u64).next_multiple_of(ALIGNMENT);
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
            tensors.insert(info.name.clone(), (info, bytes));
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
