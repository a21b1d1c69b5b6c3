//! Checkpoints: directories of safetensors files, read through memory maps and written atomically.
//!
//! Knows nothing of models or of quantization. Files are `model.safetensors`, or the shards that
//! `model.safetensors.index.json` names, or `adapter_model.safetensors`.

mod bytes;
mod companions;
mod header;
mod index;
mod tensor;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use bytes::Bytes;
pub use companions::{Companion, Companions};
pub use index::{INDEX, Index, SINGLE};
pub use safetensors::Dtype;
pub use tensor::{Tensor, narrow};
pub use writer::{FileWriter, TensorSpec, sharded_name, write_file};

use crate::{Context, Error, Result, bail, error};
use header::{Entry, Header};

/// The file of a PEFT adapter.
pub const ADAPTER: &str = "adapter_model.safetensors";

/// Every tensor of a directory or file, by name. The files stay mapped while any tensor lives.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<(PathBuf, Bytes)>,
    /// In the order of the files and of their bytes.
    entries: Vec<(usize, Entry)>,
    by_name: HashMap<String, usize>,
}

impl Checkpoint {
    /// Opens the safetensors files of a model or adapter directory and checks all their headers.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let mut index = None;
        if directory.join(SINGLE).exists() {
            files.push(directory.join(SINGLE));
        } else if directory.join(INDEX).exists() {
            let found = Index::read(&directory.join(INDEX))?;
            files.extend(found.files().into_iter().map(|file| directory.join(file)));
            index = Some(found);
        } else if directory.join(ADAPTER).exists() {
            files.push(directory.join(ADAPTER));
        } else {
            return Err(nothing_in(directory));
        }
        let checkpoint = Self::open_files(directory, &files)?;
        for (name, file) in index.iter().flat_map(|index| &index.weight_map) {
            match checkpoint.by_name.get(name) {
                None => bail!(Malformed, "tensor {name} is missing from {}", directory.join(file).display()),
                Some(&position) => {
                    let found = &checkpoint.files[checkpoint.entries[position].0].0;
                    if *found != directory.join(file) {
                        bail!(Malformed, "tensor {name} is in {}, the index says {file}", found.display());
                    }
                }
            }
        }
        Ok(checkpoint)
    }

    /// Opens one safetensors file, whatever its name.
    pub fn open_file(file: &Path) -> Result<Self> {
        Self::open_files(file, &[file.to_path_buf()])
    }

    fn open_files(path: &Path, paths: &[PathBuf]) -> Result<Self> {
        let mut checkpoint = Self {
            path: path.to_path_buf(),
            files: Vec::new(),
            entries: Vec::new(),
            by_name: HashMap::new(),
        };
        for path in paths {
            let bytes = Bytes::map(path)?;
            let header = Header::read(&bytes)
                .with_context(|| path.display().to_string())
                .hint("the file is damaged or incomplete; fetch or copy it again")?;
            for entry in header.tensors {
                if let Some(&first) = checkpoint.by_name.get(&entry.name) {
                    let first = &checkpoint.files[checkpoint.entries[first].0].0;
                    bail!(
                        Malformed,
                        "tensor {} is both in {} and {}",
                        entry.name,
                        first.display(),
                        path.display()
                    );
                }
                checkpoint.by_name.insert(entry.name.clone(), checkpoint.entries.len());
                checkpoint.entries.push((checkpoint.files.len(), entry));
            }
            checkpoint.files.push((path.clone(), bytes));
        }
        Ok(checkpoint)
    }

    /// The directory or file it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// All names, in the order of the files and of the bytes in them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(_, entry)| entry.name.as_str())
    }

    /// All tensors, in the order of [`Checkpoint::names`].
    pub fn tensors(&self) -> impl Iterator<Item = Tensor> {
        self.entries.iter().filter_map(|(_, entry)| self.get(&entry.name))
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The tensor of that name, if there is one.
    pub fn get(&self, name: &str) -> Option<Tensor> {
        let (file, entry) = &self.entries[*self.by_name.get(name)?];
        let bytes = self.files[*file].1.slice(entry.range.clone())?;
        Some(Tensor { name: entry.name.clone(), dtype: entry.dtype, shape: entry.shape.clone(), bytes })
    }

    /// The tensor of that name; an error names it and the checkpoint.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.get(name).ok_or_else(|| {
            error!("{} has no tensor {name}", self.path.display())
                .hint("the checkpoint is incomplete or of another architecture than its config.json says")
        })
    }
}

fn nothing_in(directory: &Path) -> Error {
    if !directory.is_dir() {
        return error!("{} is not a directory", directory.display())
            .hint("fetch ORGANISATION/NAME downloads a model");
    }
    let error = error!(Missing, "{} has no {SINGLE}, {INDEX} or {ADAPTER}", directory.display());
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin"];
    match pickled.iter().find(|name| directory.join(name).exists()) {
        Some(name) => error.hint(format!(
            "{name} is a pickle, which is not read; load it in transformers or PEFT and save it with safe_serialization=True"
        )),
        None => error.hint("fetch ORGANISATION/NAME downloads a model"),
    }
}

#[cfg(test)]
mod tests;
