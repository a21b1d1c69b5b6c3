//! Writes safetensors files whole or not at all, tensor by tensor.
//!
//! Names, dtypes and shapes are known before the first byte, so the header goes first and every tensor
//! straight to its slot, in any order and from any thread. Only the tensors that are being written are in
//! memory. The file has a temporary name until all of it is on disk.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use safetensors::Dtype;
use serde::Serialize;
use serde::ser::SerializeMap;

use super::header::size_in_bytes;
use super::{Bytes, Tensor};
use crate::{Context, Error, Result, bail, cli, disk, error};

/// Bytes that are copied at a time.
const COPIED: usize = 16 << 20;

/// Name, dtype and shape of a tensor whose bytes are not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// The type of each element.
    pub dtype: Dtype,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// The specification of a tensor of this name, dtype and shape.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }

    /// The number of bytes that the tensor takes.
    pub fn size(&self) -> Result<usize> {
        size_in_bytes(self.dtype, &self.shape).ok_or_else(|| {
            error!(Bug, "tensor {} has the impossible shape {:?} of {}", self.name, self.shape, self.dtype)
        })
    }
}

impl From<&Tensor> for TensorSpec {
    fn from(tensor: &Tensor) -> Self {
        Self::new(tensor.name.clone(), tensor.dtype, tensor.shape.clone())
    }
}

/// One safetensors file while it is written.
#[derive(Debug)]
pub struct FileWriter {
    path: PathBuf,
    file: tempfile::NamedTempFile,
    slots: HashMap<String, TensorSlot>,
}

#[derive(Debug)]
struct TensorSlot {
    range: Range<u64>,
    written: AtomicUsize,
}

impl FileWriter {
    /// Begins the file `path` with these tensors, in the order of Python's serializer: widest dtype first,
    /// then by name. The disk space is reserved now, so that a full disk is found before the work.
    pub fn create(path: &Path, mut specs: Vec<TensorSpec>) -> Result<Self> {
        specs.sort_by(|left, right| right.dtype.cmp(&left.dtype).then_with(|| left.name.cmp(&right.name)));
        let mut end = 0_u64;
        let mut ranges = Vec::with_capacity(specs.len());
        for spec in &specs {
            let start = end;
            end += spec.size()? as u64;
            ranges.push(start..end);
        }
        let mut header = serde_json::to_vec(&HeaderJson { specs: &specs, ranges: &ranges })?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let start = 8 + header.len() as u64;

        let mut slots = HashMap::with_capacity(specs.len());
        for (spec, range) in specs.into_iter().zip(ranges) {
            let slot =
                TensorSlot { range: start + range.start..start + range.end, written: AtomicUsize::new(0) };
            if slots.insert(spec.name.clone(), slot).is_some() {
                bail!(Bug, "tensor {} would be written twice to {}", spec.name, path.display());
            }
        }
        let file = cli::temporary(path, "")?;
        let writer = Self { path: path.to_path_buf(), file, slots };
        disk::reserve(writer.file.as_file(), start + end)
            .with_context(|| format!("cannot reserve {} bytes for {}", start + end, path.display()))?;
        let mut prefix = (header.len() as u64).to_le_bytes().to_vec();
        prefix.extend(header);
        writer.write_bytes(&prefix, 0)?;
        Ok(writer)
    }

    fn write_bytes(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file
            .as_file()
            .write_all_at(bytes, at)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Writes all bytes of a tensor.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_part(name, 0, bytes)
    }

    /// Writes a part of a tensor's bytes, beginning at its byte `offset`. Every byte must be written once.
    pub fn write_part(&self, name: &str, offset: usize, bytes: &[u8]) -> Result<()> {
        let Some(slot) = self.slots.get(name) else {
            bail!(Bug, "tensor {name} was not announced for {}", self.path.display());
        };
        let start = slot.range.start + offset as u64;
        if start + bytes.len() as u64 > slot.range.end {
            bail!(
                Bug,
                "tensor {name} has {} bytes in {}, not {}",
                slot.range.end - slot.range.start,
                self.path.display(),
                offset + bytes.len()
            );
        }
        self.write_bytes(bytes, start)?;
        slot.written.fetch_add(bytes.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Copies a tensor's bytes from another file and releases their memory step by step, so that a table of
    /// gigabytes is never resident as a whole. Calls `wrote` with the number of bytes of each step.
    pub fn copy(&self, name: &str, bytes: &Bytes, mut wrote: impl FnMut(u64)) -> Result<()> {
        for start in (0..bytes.len()).step_by(COPIED) {
            let end = bytes.len().min(start + COPIED);
            self.write_part(name, start, &bytes[start..end])?;
            if let Some(copied) = bytes.slice(start..end) {
                copied.release();
            }
            wrote((end - start) as u64);
        }
        Ok(())
    }

    /// Checks that every tensor was written, brings the file to disk and gives it its name.
    pub fn finish(self) -> Result<()> {
        for (name, slot) in &self.slots {
            let (written, size) =
                (slot.written.load(Ordering::Relaxed) as u64, slot.range.end - slot.range.start);
            if written != size {
                bail!(
                    Bug,
                    "tensor {name} of {}: {written} of {size} bytes were written",
                    self.path.display()
                );
            }
        }
        self.file.as_file().sync_all()?;
        let Self { path, file, .. } = self;
        file.persist(&path).map_err(|failed| Error::from(failed.error).context(path.display()))?;
        disk::sync(disk::parent(&path))
    }
}

/// Writes a small safetensors file, such as an adapter, whole or not at all.
pub fn write_file(path: &Path, tensors: &[Tensor]) -> Result<()> {
    let writer = FileWriter::create(path, tensors.iter().map(TensorSpec::from).collect())?;
    for tensor in tensors {
        writer.write(&tensor.name, &tensor.bytes)?;
    }
    writer.finish()
}

/// `model-00001-of-00003.safetensors`; `number` counts from 1.
pub fn sharded_name(number: usize, count: usize) -> String {
    format!("model-{number:05}-of-{count:05}.safetensors")
}

/// The JSON of a header, with keys in the order of the bytes.
struct HeaderJson<'a> {
    specs: &'a [TensorSpec],
    ranges: &'a [Range<u64>],
}

impl Serialize for HeaderJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Metadata {
            format: &'static str,
        }
        #[derive(Serialize)]
        struct Info<'a> {
            dtype: Dtype,
            shape: &'a [usize],
            data_offsets: [u64; 2],
        }
        let mut map = serializer.serialize_map(Some(self.specs.len() + 1))?;
        map.serialize_entry("__metadata__", &Metadata { format: "pt" })?;
        for (spec, range) in self.specs.iter().zip(self.ranges) {
            let info = Info { dtype: spec.dtype, shape: &spec.shape, data_offsets: [range.start, range.end] };
            map.serialize_entry(&spec.name, &info)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;

    #[test]
    fn writes_the_bytes_that_safetensors_writes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        let specs = [
            TensorSpec::new("b.weight", Dtype::U8, [3]),
            TensorSpec::new("z.weight", Dtype::F32, [1, 2]),
            TensorSpec::new("a.weight", Dtype::U8, [2, 1]),
            TensorSpec::new("c.weight", Dtype::BF16, [2]),
        ];
        let data: [&[u8]; 4] = [&[1, 2, 3], &[4; 8], &[5, 6], &[7; 4]];
        let writer = FileWriter::create(&path, specs.to_vec()).unwrap();
        for (spec, data) in specs.iter().zip(data) {
            writer.write(&spec.name, data).unwrap();
        }
        assert!(!path.exists(), "the file has its name only when it is whole");
        writer.finish().unwrap();

        let views = specs.iter().zip(data).map(|(spec, data)| {
            let view = safetensors::tensor::TensorView::new(spec.dtype, spec.shape.clone(), data).unwrap();
            (spec.name.as_str(), view)
        });
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        let expected = safetensors::serialize(views, Some(metadata)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), expected);

        let read = Checkpoint::open_file(&path).unwrap();
        assert_eq!(&*read.tensor("b.weight").unwrap().bytes, [1, 2, 3]);
        assert_eq!(read.names().collect::<Vec<_>>(), ["z.weight", "c.weight", "a.weight", "b.weight"]);
    }

    #[test]
    fn a_copy_takes_several_steps() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let bytes: Vec<u8> = (0..2 * COPIED + 77).map(|i| (i % 251) as u8).collect();
        std::fs::write(&from, &bytes).unwrap();
        let mapped = Bytes::map(&from).unwrap().slice(5..bytes.len()).unwrap();
        let spec = TensorSpec::new("w", Dtype::U8, [mapped.len()]);
        let writer = FileWriter::create(&to, vec![spec]).unwrap();
        let mut steps = Vec::new();
        writer.copy("w", &mapped, |step| steps.push(step as usize)).unwrap();
        writer.finish().unwrap();
        assert_eq!(steps, [COPIED, COPIED, 72]);
        assert!(*Checkpoint::open_file(&to).unwrap().tensor("w").unwrap().bytes == bytes[5..]);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        let writer = FileWriter::create(&path, vec![TensorSpec::new("w", Dtype::U8, [4])]).unwrap();
        writer.write_part("w", 2, &[1, 2]).unwrap();
        assert!(writer.write_part("w", 3, &[1, 2]).is_err(), "reaches into the next tensor");
        assert!(writer.write("v", &[]).is_err(), "never announced");
        let error = writer.finish().unwrap_err().to_string();
        assert!(error.contains("tensor w") && error.contains("2 of 4 bytes"), "{error}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_is_written_once() {
        let directory = tempfile::tempdir().unwrap();
        let specs = vec![TensorSpec::new("w", Dtype::U8, [4]), TensorSpec::new("w", Dtype::F32, [4])];
        assert!(FileWriter::create(&directory.path().join("m"), specs).is_err());
    }
}
