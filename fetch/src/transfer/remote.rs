//! A file to download, and the address that last sent its bytes.

use std::sync::{Mutex, PoisonError};

use reqwest::Url;

use crate::disk::digest::Digest;
use crate::disk::partial::PartialFile;

/// A file to download.
pub(crate) struct RemoteFile {
    /// The name that messages use.
    pub name: String,
    /// The address a user would give.
    pub url: Url,
    /// The address that last sent bytes, where redirects led to another one.
    resolved: Mutex<Option<Url>>,
    /// The etag that every answer must carry, where nothing else tells one content from another.
    pub etag: Option<String>,
    /// The growing file.
    pub partial: PartialFile,
}

impl RemoteFile {
    /// A file at `url` that grows at `partial`.
    pub(crate) fn new(name: String, url: Url, partial: PartialFile) -> Self {
        Self { name, url, resolved: Mutex::new(None), etag: None, partial }
    }

    /// The address that last sent bytes, where that is another than `url`.
    pub(crate) fn resolved(&self) -> Option<Url> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps or forgets the address that last sent bytes.
    pub(crate) fn set_resolved(&self, url: Option<Url>) {
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }
}

/// A file to download, with what is known of its content.
pub(crate) struct WantedFile {
    /// The address of the file, and the place where it grows.
    pub remote: RemoteFile,
    /// What its content must hash to, where a server vouches for that.
    pub digest: Option<Digest>,
    /// Which chunks an earlier run left.
    pub done: Vec<bool>,
}

impl WantedFile {
    /// The number of bytes that an earlier run left.
    pub(crate) fn there(&self) -> u64 {
        self.remote.partial.bytes_in(&self.done)
    }
}
