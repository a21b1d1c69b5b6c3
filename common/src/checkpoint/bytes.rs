//! Reference-counted bytes that are cheap to clone: a part of a mapped file, or of allocated memory.

use std::fmt;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use crate::Result;
use crate::files::Map;

/// A shared, read-only run of bytes. Cloning copies no data.
#[derive(Clone)]
pub struct Bytes {
    storage: Arc<Storage>,
    /// The part of the storage that these bytes are. It never reaches outside.
    range: Range<usize>,
}

enum Storage {
    Mapped(Map),
    Owned(Vec<u8>),
}

impl Storage {
    fn all(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Bytes {
    /// Maps a whole regular file, which must not be empty. [`crate::files::check_unchanged`] fails once
    /// another program has changed it.
    pub fn map(path: &Path) -> Result<Self> {
        Map::open(path, false).map(Self::mapped)
    }

    /// Maps a file that this process itself writes, so that changes are expected.
    pub fn map_own(path: &Path) -> Result<Self> {
        Map::open(path, true).map(Self::mapped)
    }

    fn mapped(map: Map) -> Self {
        let range = 0..map.len();
        Self { storage: Arc::new(Storage::Mapped(map)), range }
    }

    /// The part of these bytes that lies in `range`, or `None` where it reaches outside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        self.get(range.clone())?;
        let start = self.range.start;
        Some(Self { storage: self.storage.clone(), range: start + range.start..start + range.end })
    }

    /// Asks the kernel to read these bytes from disk now, in the background.
    pub fn prefetch(&self) {
        if let Storage::Mapped(map) = &*self.storage {
            map.prefetch(self.range.start, self.range.len());
        }
    }

    /// Gives the memory back to the kernel; reading the bytes again brings them back from the file.
    pub fn release(&self) {
        if let Storage::Mapped(map) = &*self.storage {
            map.release(self.range.start, self.range.len());
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage.all()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { storage: Arc::new(Storage::Owned(bytes)), range }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_stay_inside() {
        let bytes = Bytes::from(vec![0, 1, 2, 3, 4, 5]);
        let middle = bytes.slice(2..5).unwrap();
        assert_eq!(&*middle, [2, 3, 4]);
        assert_eq!(&*middle.slice(1..3).unwrap(), [3, 4]);
        assert!(middle.slice(1..4).is_none(), "the parent has a byte there, the slice has not");
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = 3..1;
        assert!(bytes.slice(reversed).is_none());
    }

    #[test]
    fn a_map_outlives_its_release_and_its_file_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        std::fs::write(&path, [7; 10_000]).unwrap();
        let bytes = Bytes::map(&path).unwrap().slice(5_000..10_000).unwrap();
        std::fs::remove_file(&path).unwrap();
        bytes.prefetch();
        bytes.release();
        assert!(bytes.iter().all(|&byte| byte == 7));
        std::fs::write(&path, []).unwrap();
        assert!(Bytes::map(&path).unwrap_err().to_string().contains("is empty"));
        assert!(Bytes::map(directory.path()).unwrap_err().to_string().contains("is a directory"));
    }
}
