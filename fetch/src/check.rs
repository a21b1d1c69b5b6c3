//! `--verify`: whether a directory still holds what was fetched. Needs no network.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::cli::{Progress, Size, Unit, note, print_path};
use common::{Error, Result};

use crate::record::{self, Record, RecordedFile};
use crate::verify::{Digest, hash_file_counting};

/// Checks every file of `directory` and prints its path when all are right.
pub fn check(directory: &Path) -> Result<()> {
    let (files, mend) = match Record::read(&directory.join(record::FILE))? {
        Some(record) => {
            let mend = format!("delete it and run: fetch {} -o {}", record.repository, directory.display());
            (record.files, mend)
        }
        None => (files_of_snapshot(directory)?, "delete it and run fetch --cache again".to_string()),
    };
    let total: u64 = files.iter().map(|file| file.size).sum();
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
    let Some(first) = wrong.pop() else {
        note(format_args!("{}: {} files, {}, all right", directory.display(), files.len(), Size(total)));
        return print_path(directory);
    };
    for error in wrong {
        common::cli::warn(error);
    }
    Err(first.context(format_args!("{count} of {} files are wrong", files.len())).hint(mend))
}

fn check_file(path: &Path, file: &RecordedFile, progress: &Progress) -> Result<()> {
    let found = fs_err::metadata(path)?.len();
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

/// In the hub's cache every file is a link to a blob that is named by its hash.
fn files_of_snapshot(directory: &Path) -> Result<Vec<RecordedFile>> {
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
    common::error!("{} is neither a complete fetch nor a snapshot of the hub's cache", directory.display())
        .hint(format_args!("a complete fetch has {} in it; run fetch to finish it", record::FILE))
}
