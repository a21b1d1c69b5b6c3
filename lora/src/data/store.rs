//! Tokenized examples in a file, so that memory does not grow with their number.
//!
//! The file, little-endian: eight bytes that name the format; a u32 for each token, whose highest bit says
//! whether the token is supervised; the u32 number of tokens of each example; a JSON object, which is
//! [`Summary`]; the u64 length of that object.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use common::text::Example;
use common::{Context, Result, bail, error, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::demands::Demands;

const MAGIC: &[u8; 8] = b"LTOKENS1";
const TRAINED: u32 = 1 << 31;

/// The numbers and warnings of all examples together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The number of examples.
    pub examples: usize,
    /// The number of tokens of all examples.
    pub tokens: u64,
    /// The number of supervised tokens of all examples.
    pub trained: u64,
    /// The SHA-256 of the lengths, the tokens and their labels.
    pub identity: String,
    /// The warnings about the data that the examples were made from.
    pub warnings: Vec<String>,
    /// What the examples demand of a model.
    pub demands: Demands,
}

/// A file of examples that is being written.
pub struct Writer {
    file: BufWriter<tempfile::NamedTempFile>,
    lengths: Vec<u32>,
    hash: Sha256,
    summary: Summary,
}

impl Writer {
    /// Begins a file in `directory`, without a name yet.
    pub fn new(directory: &Path) -> Result<Self> {
        let file = tempfile::NamedTempFile::new_in(directory)
            .with_context(|| format!("cannot write in {}", directory.display()))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(MAGIC)?;
        Ok(Self { file, lengths: Vec::new(), hash: Sha256::new(), summary: Summary::default() })
    }

    /// Adds an example.
    pub fn push(&mut self, example: &Example) -> Result<()> {
        let length =
            u32::try_from(example.tokens.len()).map_err(|_| error!(Bug, "an example is too long"))?;
        self.lengths.push(length);
        self.hash.update(length.to_le_bytes());
        let mut bytes = Vec::with_capacity(4 * example.tokens.len());
        for (&token, &trained) in example.tokens.iter().zip(&example.trained) {
            if token >= TRAINED {
                bail!(Bug, "token {token} is out of range");
            }
            bytes.extend((if trained { token | TRAINED } else { token }).to_le_bytes());
        }
        self.hash.update(&bytes);
        self.summary.trained += example.supervised() as u64;
        self.summary.tokens += u64::from(length);
        self.summary.examples += 1;
        Ok(self.file.write_all(&bytes)?)
    }

    /// Whether no example has been added.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Ends the file. It appears whole at `path`; without a path it is deleted once the examples are dropped.
    pub fn finish(
        mut self,
        warnings: Vec<String>,
        demands: Demands,
        path: Option<&Path>,
    ) -> Result<Examples> {
        for length in &self.lengths {
            self.file.write_all(&length.to_le_bytes())?;
        }
        let identity = hex(self.hash.finalize());
        let summary = Summary { identity, warnings, demands, ..self.summary };
        let text = serde_json::to_string(&summary)?;
        self.file.write_all(text.as_bytes())?;
        self.file.write_all(&(text.len() as u64).to_le_bytes())?;
        let file = self.file.into_inner().map_err(|failed| failed.into_error())?;
        file.as_file().sync_all()?;
        let file = match path {
            Some(path) => file.persist(path).map_err(|failed| failed.error)?,
            None => file.into_file(),
        };
        Examples::new(file, path, summary, self.lengths)
    }
}

/// The examples of a file, which are read one by one.
#[derive(Debug)]
pub struct Examples {
    file: Mutex<File>,
    /// Where the file is; `None` where it has no name.
    path: Option<PathBuf>,
    /// The index of the first token of each example in the file, and of the end of the last.
    starts: Vec<u64>,
    summary: Summary,
}

impl Examples {
    fn new(file: File, path: Option<&Path>, summary: Summary, lengths: Vec<u32>) -> Result<Self> {
        let mut starts = Vec::with_capacity(lengths.len() + 1);
        let mut end = 0;
        starts.push(end);
        for length in lengths {
            end += u64::from(length);
            starts.push(end);
        }
        if end != summary.tokens || starts.len() != summary.examples + 1 {
            bail!(Malformed, "lengths that do not add up");
        }
        Ok(Self { file: Mutex::new(file), path: path.map(PathBuf::from), starts, summary })
    }

    /// Opens a file that [`Writer`] wrote.
    pub fn open(path: &Path) -> Result<Self> {
        let read = || Self::read(File::open(path)?, Some(path));
        read().with_context(|| path.display().to_string())
    }

    /// Reads a file without a name that another process has written.
    pub(super) fn of_file(mut file: File) -> Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        Self::read(file, None)
    }

    fn read(mut file: File, path: Option<&Path>) -> Result<Self> {
        let size = file.metadata()?.len();
        let (mut magic, mut length) = ([0; 8], [0; 8]);
        file.read_exact(&mut magic)?;
        file.seek(SeekFrom::End(-8))?;
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        let Some(text) = size.checked_sub(16).and_then(|rest| rest.checked_sub(length)) else {
            bail!(Malformed, "not a file of tokens");
        };
        if &magic != MAGIC {
            bail!(Malformed, "not a file of tokens");
        }
        file.seek(SeekFrom::Start(8 + text))?;
        let summary: Summary = serde_json::from_reader((&mut file).take(length))?;
        let tokens = summary.tokens.checked_mul(4);
        let lengths = (summary.examples as u64).checked_mul(4);
        if tokens.zip(lengths).and_then(|(a, b)| a.checked_add(b)) != Some(text) {
            bail!(Malformed, "a size that is not what it says");
        }
        file.seek(SeekFrom::Start(8 + 4 * summary.tokens))?;
        let mut bytes = BufReader::with_capacity(1 << 20, &mut file);
        let lengths = (0..summary.examples).map(|_| {
            let mut length = [0; 4];
            bytes.read_exact(&mut length).map(|()| u32::from_le_bytes(length))
        });
        let lengths = lengths.collect::<std::io::Result<_>>()?;
        Self::new(file, path, summary, lengths)
    }

    /// Where the file is; `None` where it has no name.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Gives `read` the file from its beginning.
    pub(super) fn with_file<T>(&self, read: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(0))?;
        read(&mut file)
    }

    /// The numbers and warnings of all examples together.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The number of tokens of the example at `index`; 0 where there is no such example.
    pub fn length(&self, index: usize) -> usize {
        self.starts.get(index..index + 2).map_or(0, |bounds| (bounds[1] - bounds[0]) as usize)
    }

    /// The example at `index`.
    pub fn get(&self, index: usize) -> Result<Example> {
        let (Some(&start), Some(&end)) = (self.starts.get(index), self.starts.get(index + 1)) else {
            bail!(Bug, "there is no example {index}");
        };
        let mut bytes = vec![0; 4 * (end - start) as usize];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(8 + 4 * start))?;
        file.read_exact(&mut bytes).context("cannot read the tokens of an example")?;
        let words =
            bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        Ok(Example {
            tokens: words.clone().map(|word| word & !TRAINED).collect(),
            trained: words.map(|word| word & TRAINED != 0).collect(),
        })
    }
}

/// A selection of the examples of a file, in an order.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The examples of the file.
    pub examples: std::sync::Arc<Examples>,
    /// The indices of the selected examples.
    pub indices: Vec<usize>,
}

impl Selection {
    /// The selection of all examples, in their order.
    pub fn all(examples: std::sync::Arc<Examples>) -> Self {
        Self { indices: (0..examples.summary.examples).collect(), examples }
    }

    /// The number of selected examples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether no example is selected.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The number of tokens of each selected example.
    pub fn lengths(&self) -> Vec<usize> {
        self.indices.iter().map(|&index| self.examples.length(index)).collect()
    }

    /// The examples at `positions` of the selection.
    pub fn get(&self, positions: impl IntoIterator<Item = usize>) -> Result<Vec<Example>> {
        positions
            .into_iter()
            .map(|position| match self.indices.get(position) {
                Some(&index) => self.examples.get(index),
                None => Err(error!(Bug, "there is no example {position}")),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Example> {
        (0..20u32)
            .map(|i| Example {
                tokens: (i..2 * i).collect(),
                trained: (i..2 * i).map(|token| token % 3 == 0).collect(),
            })
            .collect()
    }

    fn write(directory: &Path, examples: &[Example], path: Option<&Path>) -> Examples {
        let mut writer = Writer::new(directory).unwrap();
        examples.iter().for_each(|example| writer.push(example).unwrap());
        writer.finish(vec!["mind the gap".into()], Demands::default(), path).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let (expected, written) = (examples(), write(folder.path(), &examples(), Some(&path)));
        for store in [written, Examples::open(&path).unwrap(), write(folder.path(), &examples(), None)] {
            let Summary { examples, tokens, trained, warnings, .. } = store.summary().clone();
            assert_eq!((examples, tokens, warnings), (20, 190, vec!["mind the gap".to_owned()]));
            assert_eq!(trained as usize, expected.iter().map(Example::supervised).sum::<usize>());
            for (index, example) in expected.iter().enumerate().rev() {
                assert_eq!(store.get(index).unwrap(), *example);
                assert_eq!(store.length(index), example.tokens.len());
            }
            assert!(store.get(20).is_err());
        }
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1, "what has no name is gone");
    }

    #[test]
    fn every_token_and_every_label_is_in_the_identity() {
        let folder = tempfile::tempdir().unwrap();
        let identity = |examples: &[Example]| write(folder.path(), examples, None).summary().identity.clone();
        let original = identity(&examples());
        let mut other = examples();
        other[5].trained[2] ^= true;
        assert_ne!(identity(&other), original);
        let mut other = examples();
        other[7].tokens[0] += 1;
        assert_ne!(identity(&other), original);
        let mut other = examples();
        let moved = (other[8].tokens.remove(0), other[8].trained.remove(0));
        other[7].tokens.push(moved.0);
        other[7].trained.push(moved.1);
        assert_ne!(identity(&other), original, "where one ends");
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(folder.path(), &examples(), Some(&path));
        let whole = fs_err::read(&path).unwrap();
        for length in (0..whole.len()).step_by(7) {
            fs_err::write(&path, &whole[..length]).unwrap();
            assert!(Examples::open(&path).is_err(), "{length} bytes");
        }
        fs_err::write(&path, [&whole[..], &[0xff; 8]].concat()).unwrap();
        assert!(Examples::open(&path).is_err());
    }
}
