//! Directories above a result that its tool makes, and removes again where the result fails.

use std::path::{Path, PathBuf};

use crate::{Context, Error, Result};

/// The directories above a result that did not exist before. Dropping them removes those that are still
/// empty, unless they are kept.
#[derive(Debug)]
pub(super) struct NewParents(Vec<PathBuf>);

impl NewParents {
    /// Makes `path` and what is missing above it.
    pub(super) fn make(path: &Path) -> Result<Self> {
        let missing: Vec<PathBuf> = path
            .ancestors()
            .filter(|path| !path.as_os_str().is_empty())
            .take_while(|path| path.symlink_metadata().is_err())
            .map(Path::to_path_buf)
            .collect();
        fs_err::create_dir_all(path)
            .map_err(Error::from)
            .with_context(|| "cannot make the output".to_owned())
            .hint("choose a place that can be written, or free some of it")?;
        Ok(Self(missing))
    }

    /// Keeps the directories, because the result is there.
    pub(super) fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for NewParents {
    fn drop(&mut self) {
        // Only what is empty can be removed.
        for path in &self.0 {
            let _ = std::fs::remove_dir(path);
        }
    }
}
