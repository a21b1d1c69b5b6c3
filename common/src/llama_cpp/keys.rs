//! The values in the metadata of a GGUF file, by their keys and types.

use crate::gguf::{GgufFile, Value as Entry};
use crate::{Error, Result, error};

/// The keys of a file that begin with a prefix.
pub(super) struct Keys<'a> {
    pub file: &'a GgufFile,
    pub prefix: &'a str,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Result<&'a Entry> {
        self.file.metadata.get(&format!("{}.{key}", self.prefix)).ok_or_else(|| self.missing(key, "nothing"))
    }

    fn missing(&self, key: &str, found: &str) -> Error {
        let prefix = self.prefix;
        error!(Malformed, "{}: {prefix}.{key} expected, found {found}", self.file.path().display())
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<&'a str> {
        match self.get(key)? {
            Entry::Text(text) => Ok(text),
            _ => Err(self.missing(key, "another type than a text")),
        }
    }

    /// A number that is not negative.
    pub(super) fn count(&self, key: &str) -> Result<u32> {
        match self.get(key)? {
            Entry::U32(count) => Ok(*count),
            _ => Err(self.missing(key, "another type than one number of 32 bits")),
        }
    }

    /// A number.
    pub(super) fn number(&self, key: &str) -> Result<f64> {
        match self.get(key)? {
            Entry::F32(number) => Ok(f64::from(*number)),
            _ => Err(self.missing(key, "another type than a float of 32 bits")),
        }
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key)? {
            Entry::Bool(flag) => Ok(*flag),
            _ => Err(self.missing(key, "another type than true or false")),
        }
    }

    /// Texts.
    pub(super) fn texts(&self, key: &str) -> Result<&'a [String]> {
        match self.get(key)? {
            Entry::Texts(texts) => Ok(texts),
            _ => Err(self.missing(key, "another type than a list of texts")),
        }
    }

    /// Floats.
    pub(super) fn floats(&self, key: &str) -> Result<&'a [f32]> {
        match self.get(key)? {
            Entry::F32s(floats) => Ok(floats),
            _ => Err(self.missing(key, "another type than a list of floats of 32 bits")),
        }
    }

    /// Signed numbers.
    pub(super) fn numbers(&self, key: &str) -> Result<&'a [i32]> {
        match self.get(key)? {
            Entry::I32s(numbers) => Ok(numbers),
            _ => Err(self.missing(key, "another type than a list of numbers of 32 bits")),
        }
    }
}
