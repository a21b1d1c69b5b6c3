//! Fetching a repository.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use common::cli::{Size, answer, check_interrupted, note, print_path, warn};
use common::{Result, bail};

use crate::config::Config;
use crate::disk::check_room;
use crate::download::{self, Wanted};
use crate::hub::{Connector, Repository, give_up, list};
use crate::layout::{Finished, Layout};
use crate::plan::{PlannedFile, plan};
use crate::readable::how_much;
use crate::record::{Record, RecordedFile};
use crate::transfer::Remote;
use crate::verify::hash_file;

/// Brings the repository, printing each file's path when it is complete and the directory's last.
pub async fn fetch(config: &Config, repository: &Repository) -> Result<()> {
    let connector = Connector::new(config.network.timeout)?;
    let listing = match list(&connector.connect()?, repository, &config.revision).await {
        Ok(listing) => listing,
        Err(error) => return use_complete_copy(config, repository, error),
    };
    let commit = listing.commit.clone();
    let plan = plan(listing, repository, &config.selection, &connector).await?;
    if !plan.left_out.is_empty() {
        let names = plan.left_out.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        note(format_args!("left out: {} files ({names} ...); --include '*' brings all", plan.left_out.len()));
    }
    if config.is_dry_run {
        return show(&plan.files);
    }
    let record = record_of(config, repository, &commit, &plan.files);

    let layout = Layout::open(config, repository, &commit)?;
    let last = layout.last_record()?;
    if let Some(last) = &last
        && last.repository != repository.id
        && !config.force
    {
        return Err(common::error!("{} holds {}", layout.path().display(), last.repository)
            .hint("choose another directory with -o, or replace it with --force"));
    }
    let missing = missing_files(config, &layout, &plan.files, last.as_ref())?;
    if !missing.is_empty() {
        layout.begin_change()?;
        bring(config, repository, &connector, &commit, &layout, &plan.files, &missing).await?;
    } else if last.as_ref() == Some(&record) {
        note(format_args!("{} is already complete", layout.path().display()));
    }
    let path = layout.path();
    layout.complete(&record)?;
    print_path(&path)
}

/// `--dry-run`: sizes in bytes, and names.
fn show(files: &[PlannedFile]) -> Result<()> {
    for file in files {
        answer(format_args!("{:>15} {}\n", file.size, file.path))?;
    }
    note(format_args!("{} files, {}", files.len(), Size(files.iter().map(|file| file.size).sum())));
    Ok(())
}

/// Which of the files are not there yet. Prints those that are.
fn missing_files(
    config: &Config,
    layout: &Layout,
    files: &[PlannedFile],
    last: Option<&Record>,
) -> Result<Vec<PlannedFile>> {
    let recorded: HashMap<&str, &RecordedFile> =
        last.iter().flat_map(|record| &record.files).map(|file| (file.path.as_str(), file)).collect();
    let recorded_at = fs_err::metadata(layout.record_path()).and_then(|found| found.modified()).ok();
    let mut missing = Vec::new();
    for file in files {
        check_interrupted()?;
        let path = layout.bytes_of(file)?;
        let recorded = recorded.get(file.path.as_str()).copied();
        if config.force || path.symlink_metadata().is_err() {
            missing.push(file.clone());
        } else if is_there(&path, file, recorded, recorded_at)? {
            print_path(&layout.found(file)?)?;
        } else if layout.may_replace(|| is_ours(&path, recorded))? {
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
    let is_recorded = recorded.is_some_and(|known| known.size == file.size && known.digest == file.digest);
    match &file.digest {
        Some(digest) if !(is_untouched && is_recorded) => Ok(hash_file(path, digest)? == *digest),
        _ => Ok(true),
    }
}

/// Whether the file at `path` is what an earlier fetch put there, so that it may be replaced.
fn is_ours(path: &Path, recorded: Option<&RecordedFile>) -> Result<bool> {
    let Some(recorded) = recorded else { return Ok(false) };
    let found = fs_err::metadata(path)?;
    match &recorded.digest {
        _ if !found.is_file() || found.len() != recorded.size => Ok(false),
        Some(digest) => Ok(hash_file(path, digest)? == *digest),
        None => Ok(true),
    }
}

/// Brings those of the files that are `missing`.
async fn bring(
    config: &Config,
    repository: &Repository,
    connector: &Connector,
    commit: &str,
    layout: &Layout,
    files: &[PlannedFile],
    missing: &[PlannedFile],
) -> Result<()> {
    let mut remotes = Vec::new();
    for file in missing {
        let url = repository.file_url(commit, &file.path);
        let identity = file.digest.as_ref().map_or_else(|| url.to_string(), ToString::to_string);
        let partial = layout.scratch().partial(&file.path, file.size, identity);
        remotes.push(Remote::new(file.path.clone(), url, partial));
    }
    check_room(layout.scratch().path(), remotes.iter().map(|remote| &remote.partial))?;
    let mut wanted = Vec::new();
    for (remote, file) in remotes.into_iter().zip(missing) {
        let done = remote.partial.prepare()?;
        wanted.push(Wanted { remote, digest: file.digest.clone(), done });
    }
    let total: u64 = files.iter().map(|file| file.size).sum();
    let left: u64 = wanted.iter().map(|wanted| wanted.remote.partial.size - wanted.there()).sum();
    note(format_args!("{repository} at {commit}: {} files, {}", files.len(), how_much(total, total - left)));
    download::run(wanted, connector.clone(), repository.token.clone(), &config.network, |index, remote| {
        print_path(&layout.place(&missing[index], &remote.partial)?)
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

/// The hub cannot be asked: a complete copy that answers the same request will do.
fn use_complete_copy(config: &Config, repository: &Repository, error: common::Error) -> Result<()> {
    if config.force || config.is_dry_run {
        return Err(error);
    }
    let Some(Finished { path, record }) = Layout::finished(config, repository)? else { return Err(error) };
    if !record.asks_the_same(&record_of(config, repository, "", &[])) {
        return Err(error);
    }
    for file in &record.files {
        let path = path.join(&file.path);
        if fs_err::metadata(&path).map(|found| found.len()).ok() != Some(file.size) {
            bail!(Malformed, "{error}; and {} is missing or has changed", path.display());
        }
    }
    warn(format_args!("{error}; using the complete copy at {}", record.commit));
    for file in &record.files {
        print_path(&path.join(&file.path))?;
    }
    print_path(&path)
}
