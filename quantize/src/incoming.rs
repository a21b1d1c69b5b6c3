//! A model whose files may still be arriving.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::Result;
use common::checkpoint::{INDEX, Index, SINGLE, nothing_in};

/// A model's directory, complete or growing.
#[derive(Debug)]
pub(crate) struct IncomingModel {
    /// The directory of the model's files.
    pub directory: PathBuf,
    /// The names of the files whose paths have arrived. Once the directory's path has, all files have.
    arrived: BTreeSet<String>,
    complete: bool,
    /// The index of the shards, once it has been read.
    index: OnceCell<Index>,
}

impl IncomingModel {
    /// A directory of which no file has arrived yet.
    pub(crate) fn growing(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
            arrived: BTreeSet::new(),
            complete: false,
            index: OnceCell::new(),
        }
    }

    /// Notes that a file has arrived; returns `false` where it is not in the directory.
    pub(crate) fn arrive(&mut self, file: &Path) -> bool {
        match (file.parent(), file.file_name().and_then(|name| name.to_str())) {
            (Some(parent), Some(name)) if parent == self.directory => {
                self.arrived.insert(name.to_string());
                true
            }
            _ => false,
        }
    }

    /// Notes that all files have arrived.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// The path of the file `name`, if it has arrived.
    pub(crate) fn file(&self, name: &str) -> Option<PathBuf> {
        let path = self.directory.join(name);
        let there = if self.complete { path.is_file() } else { self.arrived.contains(name) };
        there.then_some(path)
    }

    /// The index of the shards, where the model has several files and the index has arrived.
    pub(crate) fn index(&self) -> Result<Option<&Index>> {
        // A file with the whole model has precedence over an index, as in transformers.
        match self.file(INDEX).filter(|_| self.file(SINGLE).is_none()) {
            Some(path) => match self.index.get() {
                Some(index) => Ok(Some(index)),
                None => Index::read(&path).map(|index| Some(self.index.get_or_init(|| index))),
            },
            None => Ok(None),
        }
    }

    /// The names of all weight files; `None` while they are not known.
    pub(crate) fn shards(&self) -> Result<Option<Vec<String>>> {
        if self.file(SINGLE).is_some() {
            return Ok(Some(vec![SINGLE.into()]));
        }
        if let Some(index) = self.index()? {
            return Ok(Some(index.files().into_iter().map(String::from).collect()));
        }
        if self.complete {
            return Err(nothing_in(&self.directory));
        }
        Ok(None)
    }
}
