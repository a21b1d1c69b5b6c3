//! Fetching a repository into a directory.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use common::cli::{check_interrupted, note, print_path, warn};
use common::{Result, bail};

use crate::config::Config;
use crate::directory::Directory;
use crate::download::{self, Wanted};
use crate::hub::{Connection, Repository, give_up, list};
use crate::plan::{PlannedFile, plan};
use crate::record::{self, Record, RecordedFile};
use crate::transfer::Remote;
use crate::verify::hash_file;

/// Brings the repository, printing each file's path when it is complete and the directory's last.
pub async fn fetch(config: &Config, repository: &Repository) -> Result<()> {
    let connection = Connection::new(config.network.timeout)?;
    let listing = match list(&connection, repository, &config.revision).await {
        Ok(listing) => listing,
        Err(error) => return use_complete_copy(config, repository, error),
    };
    let commit = listing.commit.clone();
    let plan =
        plan(listing, repository, &config.selection, || Connection::new(config.network.timeout)).await?;
    if !plan.left_out.is_empty() {
        let names = plan.left_out.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        note(format_args!(
            "leaving out {} files ({names}, ...); --include '*' brings all",
            plan.left_out.len()
        ));
    }
    let record = record_of(config, repository, &commit, &plan.files);

    let directory = Directory::open(&config.output)?;
    let last = directory.last_record()?;
    if let Some(last) = &last
        && last.repository != repository.id
        && !config.force
    {
        return Err(common::error!("{} holds {}", config.output.display(), last.repository)
            .hint("choose another directory with -o, or replace it with --force"));
    }
    let missing = missing_files(config, &directory, &plan.files, last.as_ref())?;
    if !missing.is_empty() {
        directory.begin_change()?;
        let bytes: u64 = missing.iter().map(|file| file.size).sum();
        note(format_args!(
            "{} of {} at {commit}: {} files, {}",
            repository.id,
            config.revision,
            missing.len(),
            download::readable(bytes)
        ));
        bring(config, repository, &commit, &directory, &missing).await?;
    } else if last.as_ref() == Some(&record) {
        note(format_args!("{} is already complete", config.output.display()));
    }
    directory.complete(&record)?;
    print_path(&config.output)
}

/// Which of the files are not there yet. Prints those that are.
fn missing_files(
    config: &Config,
    directory: &Directory,
    files: &[PlannedFile],
    last: Option<&Record>,
) -> Result<Vec<PlannedFile>> {
    let recorded: HashMap<&str, &RecordedFile> =
        last.iter().flat_map(|record| &record.files).map(|file| (file.path.as_str(), file)).collect();
    let recorded_at = fs_err::metadata(directory.record_path()).and_then(|found| found.modified()).ok();
    let mut missing = Vec::new();
    for file in files {
        check_interrupted()?;
        let path = directory.path(&file.path)?;
        let recorded = recorded.get(file.path.as_str()).copied();
        if config.force || path.symlink_metadata().is_err() {
            missing.push(file.clone());
        } else if is_there(&path, file, recorded, recorded_at)? {
            print_path(&path)?;
        } else if is_ours(&path, recorded)? {
            missing.push(file.clone());
        } else {
            return Err(common::error!("{} exists and is not the repository's file", path.display())
                .hint("--force replaces it, -o chooses another directory"));
        }
    }
    Ok(missing)
}

/// Whether the file at `path` is the wanted one.
fn is_there(
    path: &Path,
    file: &PlannedFile,
    recorded: Option<&RecordedFile>,
    recorded_at: Option<SystemTime>,
) -> Result<bool> {
    let found = fs_err::metadata(path)?;
    if !found.is_file() || found.len() != file.size {
        return Ok(false);
    }
    // What was complete and has not been written to since needs no second look.
    let is_untouched = recorded_at.is_some_and(|at| found.modified().is_ok_and(|modified| modified <= at));
    let is_recorded =
        recorded.is_some_and(|recorded| recorded.size == file.size && recorded.digest == file.digest);
    match &file.digest {
        Some(digest) if !(is_untouched && is_recorded) => Ok(hash_file(path, digest, |_| ())? == *digest),
        _ => Ok(true),
    }
}

/// Whether the file at `path` is what an earlier fetch put there, so that it may be replaced.
fn is_ours(path: &Path, recorded: Option<&RecordedFile>) -> Result<bool> {
    let Some(recorded) = recorded else { return Ok(false) };
    let found = fs_err::metadata(path)?;
    match &recorded.digest {
        _ if !found.is_file() || found.len() != recorded.size => Ok(false),
        Some(digest) => Ok(hash_file(path, digest, |_| ())? == *digest),
        None => Ok(true),
    }
}

async fn bring(
    config: &Config,
    repository: &Repository,
    commit: &str,
    directory: &Directory,
    missing: &[PlannedFile],
) -> Result<()> {
    let mut wanted = Vec::new();
    for file in missing {
        let url = repository.file_url(commit, &file.path);
        let identity = file.digest.as_ref().map_or_else(|| url.to_string(), ToString::to_string);
        let partial = directory.scratch.partial(&file.path, file.size, identity);
        let done = partial.prepare()?;
        wanted.push(Wanted {
            remote: Remote::new(file.path.clone(), url, partial),
            digest: file.digest.clone(),
            done,
        });
    }
    download::run(wanted, repository.token.clone(), &config.network, |_, remote| {
        print_path(&directory.place(&remote.name, &remote.partial)?)
    })
    .await
    .map_err(|failure| failure.into_error(|failure| give_up(failure, repository)))
}

fn record_of(config: &Config, repository: &Repository, commit: &str, files: &[PlannedFile]) -> Record {
    let file = |file: &PlannedFile| RecordedFile {
        path: file.path.clone(),
        size: file.size,
        digest: file.digest.clone(),
    };
    Record {
        repository: repository.id.clone(),
        repo_type: repository.kind,
        endpoint: repository.endpoint.to_string(),
        revision: config.revision.clone(),
        commit: commit.to_string(),
        selection: config.selection.written.clone(),
        files: files.iter().map(file).collect(),
    }
}

/// The hub cannot be asked: a complete directory that answers the same request will do.
fn use_complete_copy(config: &Config, repository: &Repository, error: common::Error) -> Result<()> {
    let Some(record) = Record::read(&config.output.join(record::FILE))? else { return Err(error) };
    if config.force || !record.asks_the_same(&record_of(config, repository, "", &[])) {
        return Err(error);
    }
    for file in &record.files {
        let path = config.output.join(&file.path);
        if fs_err::metadata(&path).map(|found| found.len()).ok() != Some(file.size) {
            bail!("{error}; {} is not what {} says either", path.display(), record::FILE);
        }
    }
    warn(format_args!("{error}; using the complete copy at {}", record.commit));
    for file in &record.files {
        print_path(&config.output.join(&file.path))?;
    }
    print_path(&config.output)
}
