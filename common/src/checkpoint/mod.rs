//! Checkpoints: directories of safetensors files, read through memory maps and written atomically.
//!
//! This module knows nothing of models or of quantization. The files are `model.safetensors`, or the
//! shards that `model.safetensors.index.json` names, or `adapter_model.safetensors`.

mod bytes;
mod companions;
mod fingerprint;
mod header;
mod index;
mod tensor;
mod writer;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use crate::files::check_unchanged;
pub use bytes::Bytes;
pub use companions::{Companion, Companions};
pub use fingerprint::fingerprint;
pub use index::{INDEX, Index, SINGLE};
pub use safetensors::Dtype;
pub use tensor::{Tensor, cast_from_f32};
pub use writer::{FileWriter, TensorSpec, sharded_name, write_file};

use crate::{Context, Error, Result, bail, cli, error};
use header::{Header, TensorEntry};

/// Pickled weights that people have, and a Python program that saves them as safetensors.
const PICKLED: [(&str, &str); 3] = [
    ("pytorch_model.bin", CONVERT_MODEL),
    ("pytorch_model.bin.index.json", CONVERT_MODEL),
    ("adapter_model.bin", CONVERT_ADAPTER),
];
const CONVERT_MODEL: &str = "import sys, transformers as t; \
    t.AutoModelForCausalLM.from_pretrained(sys.argv[1], torch_dtype=\"auto\").save_pretrained(sys.argv[2]); \
    t.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])";
const CONVERT_ADAPTER: &str = "import sys, peft; \
    peft.AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])";

/// The name of the file of a PEFT adapter's weights.
pub const ADAPTER: &str = "adapter_model.safetensors";

/// The tensors of a directory or file, by name. The files stay mapped while any of the tensors lives.
///
/// ```
/// use common::checkpoint::{Checkpoint, Dtype, SINGLE, Tensor, write_file};
///
/// let directory = tempfile::tempdir()?;
/// let weight = Tensor::from_f32("head.weight", vec![2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
/// write_file(&directory.path().join(SINGLE), &[weight])?;
///
/// let checkpoint = Checkpoint::open(directory.path())?;
/// let weight = checkpoint.tensor("head.weight")?;
/// assert_eq!((weight.dtype, &weight.shape[..]), (Dtype::F32, &[2, 3][..]));
/// let mut second_row = [0.0; 3];
/// weight.read_f32(3..6, &mut second_row)?;
/// assert_eq!(second_row, [3.0, 4.0, 5.0]);
/// # Ok::<(), common::Error>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<(PathBuf, Bytes)>,
    /// The file of each tensor, by its place in `files`, and its entry, in the order of the bytes.
    entries: Vec<(usize, TensorEntry)>,
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

    /// The tensors of a file in another format, with the path of that file.
    pub fn of_tensors(path: &Path, tensors: Vec<Tensor>) -> Result<Self> {
        let mut checkpoint = Self {
            path: path.to_path_buf(),
            files: Vec::new(),
            entries: Vec::new(),
            by_name: HashMap::new(),
        };
        for Tensor { name, dtype, shape, bytes } in tensors {
            if checkpoint.by_name.insert(name.clone(), checkpoint.entries.len()).is_some() {
                bail!(Malformed, "tensor {name} is twice in {}", path.display());
            }
            let entry = TensorEntry { name, dtype, shape, range: 0..bytes.len() };
            checkpoint.entries.push((checkpoint.files.len(), entry));
            checkpoint.files.push((path.to_path_buf(), bytes));
        }
        Ok(checkpoint)
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

    /// Renames all tensors. Fails where two of them would get the same name.
    pub fn renamed(mut self, rename: impl Fn(&str) -> Cow<'_, str>) -> Result<Self> {
        self.by_name.clear();
        for (position, (file, entry)) in self.entries.iter_mut().enumerate() {
            let name = rename(&entry.name).into_owned();
            if self.by_name.insert(name.clone(), position).is_some() {
                bail!(
                    Malformed,
                    "{}: tensor {} is {name}, which is there as well",
                    self.files[*file].0.display(),
                    entry.name
                );
            }
            entry.name = name;
        }
        Ok(self)
    }

    /// Leaves out the tensors that `is_left_out` chooses by their names.
    pub fn without(mut self, is_left_out: impl Fn(&str) -> bool) -> Self {
        self.entries.retain(|(_, entry)| !is_left_out(&entry.name));
        let names = self.entries.iter().map(|(_, entry)| entry.name.clone());
        self.by_name = names.enumerate().map(|(position, name)| (name, position)).collect();
        self
    }

    /// Replaces the tensor `name` by the parts that it consists of, one after the other: each a name and a shape.
    /// Fails where the parts do not make up the tensor, or one of their names is taken.
    pub fn split(&mut self, name: &str, parts: impl Iterator<Item = (String, Vec<usize>)>) -> Result<()> {
        let Some(&position) = self.by_name.get(name) else {
            bail!(Bug, "{}: no tensor {name} to split", self.path.display());
        };
        let (file, whole) = self.entries[position].clone();
        let count: usize = whole.shape.iter().product();
        let (mut entries, mut start) = (Vec::new(), 0);
        for (name, shape) in parts {
            let end = start + shape.iter().product::<usize>();
            let byte = |element: usize| whole.range.start + (element * whole.dtype.bitsize()).div_ceil(8);
            entries
                .push((file, TensorEntry { name, dtype: whole.dtype, range: byte(start)..byte(end), shape }));
            start = end;
        }
        if start != count {
            bail!(Malformed, "tensor {name} {:?}: {start} elements expected, found {count}", whole.shape);
        }
        self.entries.splice(position..=position, entries);
        self.by_name.clear();
        for (position, (_, entry)) in self.entries.iter().enumerate() {
            if self.by_name.insert(entry.name.clone(), position).is_some() {
                bail!(
                    Malformed,
                    "{}: a part of {name} is {}, which is there as well",
                    self.path.display(),
                    entry.name
                );
            }
        }
        Ok(())
    }

    /// The directory or file that the checkpoint was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The names of all tensors, in the order of the files and of the bytes in them.
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

    /// The tensor of that name. Fails where there is none, naming the tensor and the checkpoint.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.get(name).ok_or_else(|| {
            error!("{} has no tensor {name}", self.path.display())
                .hint("the checkpoint is incomplete or of another architecture than its config.json says")
        })
    }
}

/// The error for a directory that holds no safetensors file of a model or adapter.
pub fn nothing_in(directory: &Path) -> Error {
    if !directory.is_dir() {
        return error!("{} is not a directory", directory.display())
            .hint("fetch ORGANISATION/NAME downloads a model");
    }
    let error = error!(Missing, "{} has no {SINGLE}, {INDEX} or {ADAPTER}", directory.display());
    let found = PICKLED.iter().find(|(name, _)| directory.join(name).exists());
    match found {
        Some((name, program)) => {
            let directory: PathBuf = directory.components().collect();
            let mut converted = directory.clone().into_os_string();
            converted.push("-safetensors");
            error.hint(format!(
                "{name} is a pickle, which is not read; this converts it: python3 -c {} {} {}",
                cli::quoted(program),
                cli::quoted_path(&directory),
                cli::quoted_path(Path::new(&converted))
            ))
        }
        None => match weights_of_another_format(directory) {
            Some(name) => error.hint(format!(
                "{} is of a format that is not read: fetch the repository that has the model's safetensors",
                cli::one_line(name)
            )),
            None => error.hint("fetch ORGANISATION/NAME downloads a model"),
        },
    }
}

/// The first file in a directory whose extension is that of weights in another format.
fn weights_of_another_format(directory: &Path) -> Option<String> {
    let names = std::fs::read_dir(directory).ok()?.flatten().filter_map(|e| e.file_name().into_string().ok());
    let is_other = |name: &String| {
        [".gguf", ".h5", ".msgpack", ".onnx", ".pth", ".safetensors"].iter().any(|end| name.ends_with(end))
    };
    names.filter(is_other).min()
}

#[cfg(test)]
mod tests;
