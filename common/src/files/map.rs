//! Memory maps of files, and the check whether another program has changed them meanwhile.
//!
//! A map shows the file as it is now. Where another program writes into it, bytes read before and after
//! belong to different contents; where it is cut short, there is nothing to read. Neither can be
//! prevented, so a tool calls [`check_unchanged`] before it gives a result its name, which fails where a
//! file has changed. A new file under the old name changes nothing, because the map keeps the old file.

#![allow(unsafe_code)] // memory mapping; each use says what it rests on

use std::fs::Metadata;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{Advice, Mmap, UncheckedAdvice};

use super::shortened::Region;
use crate::{Context, Result, bail};

/// A whole file, mapped for reading.
pub(crate) struct Map {
    bytes: Mmap,
    watch: Option<Arc<Watch>>,
    /// The watch for SIGBUS, which [`Drop`] removes before the bytes are unmapped.
    region: Option<Arc<Region>>,
}

/// What is needed to tell whether a mapped file has changed.
struct Watch {
    path: PathBuf,
    opened: Metadata,
    region: Arc<Region>,
}

/// The files that are mapped, and the first file that was found changed.
struct Watched {
    maps: Vec<Arc<Watch>>,
    changed: Option<PathBuf>,
}

static WATCHED: Mutex<Watched> = Mutex::new(Watched { maps: Vec::new(), changed: None });

fn watched() -> MutexGuard<'static, Watched> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails where any file that this process maps or has mapped was changed while it was mapped.
pub fn check_unchanged() -> Result<()> {
    let mut watched = watched();
    if watched.changed.is_none() {
        watched.changed = watched.maps.iter().find(|map| map.is_changed()).map(|map| map.path.clone());
    }
    match &watched.changed {
        Some(path) => bail!(Changed, "{}: the file changed while it was read", path.display()),
        None => Ok(()),
    }
}

impl Map {
    /// Maps a regular file, which must not be empty. `is_ours` says that this process itself writes
    /// the file, so that changes are expected.
    pub(crate) fn open(path: &Path, is_ours: bool) -> Result<Self> {
        let file = super::open(path)?;
        let opened = file.metadata().with_context(|| path.display().to_string())?;
        if opened.len() == 0 {
            bail!(Malformed, "{} is empty", path.display());
        }
        // SAFETY: the map is read-only and private and lives as long as this value, so the only danger
        // is that the file changes meanwhile. Changed bytes are read as they are, which every reader
        // of tensors copes with: all bit patterns are valid numbers, and offsets were checked against
        // a copy of the header. Bytes that are gone read as zeros, by the handler of `Region`.
        let bytes = unsafe { Mmap::map(&file) }
            .with_context(|| format!("cannot map {} into memory", path.display()))?;
        let region = Arc::new(Region::watch(&bytes));
        let watch = (!is_ours).then(|| Arc::new(Watch { path: path.into(), opened, region: region.clone() }));
        watched().maps.extend(watch.clone());
        Ok(Self { bytes, watch, region: Some(region) })
    }

    /// Asks the kernel to read these bytes from disk now, in the background.
    pub(crate) fn prefetch(&self, start: usize, len: usize) {
        // Advice that is refused costs speed, nothing else.
        let _ = self.bytes.advise_range(Advice::WillNeed, start, len);
    }

    /// Gives the memory of these bytes back to the kernel.
    pub(crate) fn release(&self, start: usize, len: usize) {
        // SAFETY: the map is of a file and never written through, so a page that is dropped comes back
        // from the file as the file is.
        let _ = unsafe { self.bytes.unchecked_advise_range(UncheckedAdvice::DontNeed, start, len) };
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            let mut watched = watched();
            if watched.changed.is_none() && watch.is_changed() {
                watched.changed = Some(watch.path.clone());
            }
            watched.maps.retain(|other| !Arc::ptr_eq(other, &watch));
        }
        self.region = None;
    }
}

impl Watch {
    fn is_changed(&self) -> bool {
        self.region.is_shortened() || self.is_rewritten()
    }

    /// Whether the file under the path is the one that was opened, with another content. The length and
    /// the modification time show that; so does the inode's change time, where the modification time was
    /// set back, unless a new link, owner or permission explains the change.
    fn is_rewritten(&self) -> bool {
        let Ok(now) = std::fs::metadata(&self.path) else { return false };
        let content = |file: &Metadata| (file.len(), file.mtime(), file.mtime_nsec());
        let inode = |file: &Metadata| (file.ctime(), file.ctime_nsec());
        let standing = |file: &Metadata| (file.nlink(), file.mode(), file.uid(), file.gid());
        let opened = &self.opened;
        (now.dev(), now.ino()) == (opened.dev(), opened.ino())
            && (content(&now) != content(opened)
                || inode(&now) != inode(opened) && standing(&now) == standing(opened))
    }
}
