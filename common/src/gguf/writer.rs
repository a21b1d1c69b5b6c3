//! Writes a GGUF file tensor by tensor.
//!
//! Names, types and shapes are known before the first byte, so the header goes first and the rows of every
//! tensor straight to their place, in any order and from any thread. Only the rows that are being written are
//! in memory.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::metadata::{Metadata, write_text};
use super::{ALIGNMENT, MAGIC, TensorInfo, VERSION};
use crate::{Context, Result, bail, cli, disk, error};

/// A GGUF file while it is written.
#[derive(Debug)]
pub struct GgufWriter {
    path: PathBuf,
    file: File,
    slots: HashMap<String, Slot>,
}

/// The place of a tensor in the file, and how many of its bytes have been written.
#[derive(Debug)]
struct Slot {
    range: Range<u64>,
    written: AtomicU64,
}

/// The bytes of a file before its tensors, and where each tensor lies.
struct Layout {
    header: Vec<u8>,
    tensors: Vec<Range<u64>>,
    end: u64,
}

impl GgufWriter {
    /// Makes the file `path`, which must not exist yet, for these tensors in this order. The disk space is
    /// reserved now, so that a full disk is found before the work.
    pub fn create(path: &Path, metadata: &Metadata, tensors: &[TensorInfo]) -> Result<Self> {
        let layout = Layout::new(metadata, tensors)?;
        let mut slots = HashMap::with_capacity(tensors.len());
        for (info, range) in tensors.iter().zip(layout.tensors) {
            let slot = Slot { range, written: AtomicU64::new(0) };
            if slots.insert(info.name.clone(), slot).is_some() {
                bail!(Bug, "tensor {} would be written twice to {}", info.name, path.display());
            }
        }
        let file = cli::create_new(path)?;
        disk::reserve(&file, layout.end)
            .with_context(|| format!("cannot reserve {} for {}", cli::Size(layout.end), path.display()))?;
        let writer = Self { path: path.to_path_buf(), file, slots };
        writer.write_bytes(&layout.header, 0)?;
        Ok(writer)
    }

    /// Writes a part of a tensor's bytes, beginning at its byte `offset`. Every byte must be written once.
    pub fn write_part(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some(slot) = self.slots.get(name) else {
            bail!(Bug, "tensor {name} was not announced for {}", self.path.display());
        };
        let start = slot.range.start + offset;
        if start + bytes.len() as u64 > slot.range.end {
            bail!(Bug, "tensor {name} has fewer bytes than {} in {}", offset, self.path.display());
        }
        self.write_bytes(bytes, start)?;
        slot.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Checks that every tensor was written.
    pub fn finish(self) -> Result<()> {
        for (name, slot) in &self.slots {
            let (written, size) = (slot.written.load(Ordering::Relaxed), slot.range.end - slot.range.start);
            if written != size {
                bail!(
                    Bug,
                    "tensor {name} of {}: {written} of {size} bytes were written",
                    self.path.display()
                );
            }
        }
        Ok(())
    }

    fn write_bytes(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.write_all_at(bytes, at).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Layout {
    fn new(metadata: &Metadata, tensors: &[TensorInfo]) -> Result<Self> {
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        metadata.write(&mut header);
        // Offsets count from where the first tensor begins, which is known when all have been listed.
        let mut ranges = Vec::with_capacity(tensors.len());
        let mut end = 0_u64;
        for info in tensors {
            if !info.columns().is_multiple_of(info.kind.block_elements()) {
                bail!(Bug, "tensor {} {:?} cannot be {}", info.name, info.shape, info.kind);
            }
            let size = info.size().and_then(|size| size.checked_next_multiple_of(ALIGNMENT).map(|_| size));
            let Some(size) = size else {
                bail!(TooLarge, "tensor {} {:?} is too large for a file", info.name, info.shape);
            };
            write_text(&info.name, &mut header);
            header.extend((info.shape.len() as u32).to_le_bytes());
            info.shape.iter().rev().for_each(|&size| header.extend((size as u64).to_le_bytes()));
            header.extend(info.kind.id().to_le_bytes());
            header.extend(end.to_le_bytes());
            ranges.push(end..end + size);
            end = (end + size).next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
        let start = header.len() as u64;
        let tensors = ranges.into_iter().map(|range| start + range.start..start + range.end).collect();
        let end =
            start.checked_add(end).ok_or_else(|| error!(TooLarge, "the tensors are too large for a file"))?;
        Ok(Self { header, tensors, end })
    }
}
