//! What is at the destination already, found without writing anything and without a request.
//!
//! A copy that is complete needs neither a lock nor the hub, and may lie where nothing can be written.

use std::path::{Path, PathBuf};

use common::cli::{print_path, warn};
use common::{Result, bail};

use crate::config::{Config, Destination};
use crate::disk::folder::Folder;
use crate::disk::scratch;
use crate::hub::{Repository, RepositoryKind, is_commit};
use crate::layout::cache;
use crate::layout::check;
use crate::layout::record::{Record, RecordedFile, is_unchanged};
use crate::select::names::RECORD;

/// A directory that an earlier run or another tool has left.
pub(crate) struct Standing {
    path: PathBuf,
    /// The commit that the cache has for the revision.
    commit: Option<String>,
    /// The record of the directory, and when it was written.
    record: Option<(Record, std::time::SystemTime)>,
    /// Whether a fetch is writing there, or was killed before it had removed its scratch directory.
    is_unfinished: bool,
}

impl Standing {
    /// What is at the destination of a run; `None` where nothing is.
    pub(crate) fn find(config: &Config, repository: &Repository) -> Result<Option<Self>> {
        let (path, commit, entry, scratch) = match &config.destination {
            Destination::Path(root) => {
                let Some(folder) = Folder::open(root)? else { return Ok(None) };
                (root.clone(), None, folder.entry(RECORD), folder.entry(scratch::NAME))
            }
            Destination::Cache(root) => {
                let Some(cache) = Folder::open(root)? else { return Ok(None) };
                let Some(root) = cache.entry(cache::directory_name(repository)).folder()? else {
                    return Ok(None);
                };
                let Some(commit) = cache::known_commit(&root, &config.revision) else { return Ok(None) };
                let path = cache::snapshot(&root, &commit).path();
                let record = cache::record(&root, &commit);
                (path, Some(commit), record, root.entry(scratch::NAME))
            }
        };
        let record = match Record::read(&entry)? {
            Some(record) => Some((record, fs_err::metadata(entry.path())?.modified()?)),
            None => None,
        };
        let is_unfinished = scratch.look()?.is_some();
        Ok(Some(Self { path, commit, record, is_unfinished }))
    }

    /// The directory to print.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The files of the copy, where it is complete at `commit` for the request of `wanted`: as they were
    /// recorded, and not written to since.
    pub(crate) fn files_at(&self, commit: &str, wanted: &Record) -> Option<&[RecordedFile]> {
        let (record, _) = self.record.as_ref()?;
        let is_known = self.commit.as_ref().is_none_or(|known| known == commit);
        let is_current = is_commit(commit) && record.commit == commit && record.asks_the_same(wanted);
        let is_complete = is_known
            && is_current
            && !self.is_unfinished
            && record.files.iter().all(|file| self.is_untouched(file));
        is_complete.then_some(&record.files)
    }

    /// Whether all files of `wanted` are there and right; each is hashed.
    pub(crate) fn holds(&self, wanted: &Record) -> Result<bool> {
        if self.commit.as_ref().is_some_and(|commit| *commit != wanted.commit) {
            return Ok(false);
        }
        for file in &wanted.files {
            common::cli::check_interrupted()?;
            if !is_right(&self.path.join(&file.path), file)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Prints the files and the directory.
    pub(crate) fn announce(&self, files: &[RecordedFile]) -> Result<()> {
        for file in files {
            print_path(&self.path.join(&file.path))?;
        }
        print_path(&self.path)
    }

    /// Prints the copy, where it is a complete one for the request of `wanted`, though the hub was not
    /// asked: `reason` says why. Returns `false` where it is none.
    pub(crate) fn announce_unasked(&self, wanted: &Record, config: &Config, reason: &str) -> Result<bool> {
        if let Some((record, _)) = &self.record {
            if !record.asks_the_same(wanted) {
                return Ok(false);
            }
            for file in &record.files {
                let path = self.path.join(&file.path);
                if fs_err::metadata(&path).map(|found| found.len()).ok() != Some(file.size) {
                    bail!(Malformed, "{reason}; and {} is missing or has changed", path.display());
                }
            }
            warn(format_args!("{reason}; using the complete copy at {}", record.commit));
            return self.announce(&record.files).map(|()| true);
        }
        let Some(commit) = self.commit.as_ref().filter(|_| self.path.is_dir()) else { return Ok(false) };
        // Another tool has filled the cache, and has not written down whether that is all.
        let mut files = check::files_of_snapshot(&self.path)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let is_model = wanted.repo_type == RepositoryKind::Model;
        let mut chosen = config.selection.choose(&names, is_model)?.into_iter();
        files.retain(|_| chosen.next().unwrap_or(false));
        check::check_files(
            &self.path,
            &files,
            "the hub's cache is damaged: run fetch --cache with the network",
        )?;
        warn(format_args!("{reason}; using the files that the hub's cache has of {commit}"));
        self.announce(&files).map(|()| true)
    }

    fn is_untouched(&self, file: &RecordedFile) -> bool {
        let Some((_, recorded_at)) = &self.record else { return false };
        fs_err::metadata(self.path.join(&file.path)).is_ok_and(|found| {
            let is_older = found.modified().is_ok_and(|modified| modified <= *recorded_at);
            found.is_file() && found.len() == file.size && is_older
        })
    }
}

/// Whether a file, which may be a link into the cache's blobs, is the recorded one.
fn is_right(path: &Path, file: &RecordedFile) -> Result<bool> {
    match fs_err::canonicalize(path) {
        Ok(path) => is_unchanged(&path, file),
        Err(_) => Ok(false),
    }
}
