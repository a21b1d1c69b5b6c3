//! `--verify`: whether a directory still holds what was fetched, without the network.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::cli::{Progress, Size, Unit, note, print_path, quoted, quoted_path};
use common::{Context, Error, Result, error, files};

use crate::disk::digest::{Digest, hash_file_counting};
use crate::disk::folder::Folder;
use crate::layout::record::{Record, RecordedFile};
use crate::select::names::RECORD;

/// Checks every file of `directory` and prints its path when all are right.
pub(crate) fn check(directory: &Path) -> Result<()> {
    let folder = Folder::open(directory)?
        .ok_or_else(|| error!(Missing, "there is no directory {}", directory.display()))?;
    let (files, mend) = match Record::read(&folder.entry(RECORD))? {
        Some(record) => {
            let (repository, output) = (quoted(&record.repository), quoted_path(directory));
            (record.files, format!("delete it and run: fetch {repository} -o {output}"))
        }
        None => (files_of_snapshot(directory)?, "delete it and run fetch --cache again".to_string()),
    };
    let total = check_files(directory, &files, &mend)?;
    note(format_args!("{}: {} files, {}, all right", directory.display(), files.len(), Size(total)));
    print_path(directory)
}

/// Checks files below `directory` and returns the number of their bytes. `mend` is the hint of the error
/// about wrong ones.
pub(crate) fn check_files(directory: &Path, files: &[RecordedFile], mend: &str) -> Result<u64> {
    let total = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size));
    let progress = Progress::new("verify", total, Unit::Bytes);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = check_file(&directory.join(&file.path), file, &progress)
                        && let Ok(mut wrong) = wrong.lock()
                    {
                        wrong.push(error);
                    }
                }
            });
        }
    });
    drop(progress);
    let mut wrong = wrong.into_inner().unwrap_or_default();
    common::cli::check_interrupted()?;
    let count = wrong.len();
    let Some(first) = wrong.pop() else { return Ok(total) };
    for error in wrong {
        common::cli::warn(error);
    }
    Err(first.context(format_args!("{count} of {} files are wrong", files.len())).hint(mend))
}

fn check_file(path: &Path, file: &RecordedFile, progress: &Progress) -> Result<()> {
    let found = files::open(path)?.metadata().with_context(|| path.display())?.len();
    if found != file.size {
        common::bail!(Malformed, "{}: expected {} bytes, found {found}", path.display(), file.size);
    }
    let Some(digest) = &file.digest else { return Ok(()) };
    let found = hash_file_counting(path, digest, |read| progress.add(read))?;
    if found != *digest {
        common::bail!(Malformed, "{}: expected {digest}, found {found}", path.display());
    }
    Ok(())
}

/// The files of a snapshot in the hub's cache, where every file is a link to a blob named by its hash.
pub(crate) fn files_of_snapshot(directory: &Path) -> Result<Vec<RecordedFile>> {
    let mut files = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        for entry in fs_err::read_dir(directory.join(&below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push(path);
                continue;
            }
            let hash = fs_err::read_link(entry.path())
                .ok()
                .and_then(|target| target.file_name()?.to_str().map(str::to_string))
                .and_then(|name| Digest::sha256(&name).or_else(|| Digest::git_sha1(&name)));
            let digest = Some(hash.ok_or_else(|| not_fetched(directory))?);
            let size = fs_err::metadata(entry.path())?.len();
            files.push(RecordedFile { path: path.to_string_lossy().into_owned(), size, digest });
        }
    }
    if files.is_empty() { Err(not_fetched(directory)) } else { Ok(files) }
}

fn not_fetched(directory: &Path) -> Error {
    error!("{} is neither a complete fetch nor a snapshot of the hub's cache", directory.display())
        .hint(format_args!("a complete fetch has {RECORD} in it; run fetch to finish it"))
}
