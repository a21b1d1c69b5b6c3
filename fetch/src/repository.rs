//! A run that fetches a repository.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use common::cli::{Size, answer, check_interrupted, hide_secrets, note, print_path, quoted, warn};
use common::error::Kind;
use common::{Error, Result, error};
use reqwest::StatusCode;

use crate::config::{Config, Destination};
use crate::disk::digest::hash_file;
use crate::disk::space::check_room;
use crate::hub::{Connector, Failure, Listing, Repository, give_up, list};
use crate::layout::Layout;
use crate::layout::directory::in_the_way;
use crate::layout::record::{Record, RecordedFile, is_unchanged};
use crate::layout::standing::Standing;
use crate::select::plan::{PlannedFile, plan};
use crate::transfer::{self, RemoteFile, WantedFile, how_much};

/// Fetches the repository. Prints the path of each file when it is complete, and then the directory.
pub(crate) async fn fetch(config: &Config, mut repository: Repository) -> Result<()> {
    if let Some(variable) = config.offline {
        return use_what_is_there(config, &repository, variable);
    }
    let connector = Connector::new(config.network.timeout)?;
    let listing = match list_with_or_without_token(config, &connector, &mut repository).await {
        Ok(listing) => listing,
        Err(error) => return use_complete_copy(config, &repository, error),
    };
    let repository = &repository;
    let commit = listing.commit.clone();
    if !config.force
        && !config.is_dry_run
        && let Some(standing) = Standing::find(config, repository)?
        && let Some(files) = standing.files_at(&commit, &record_of(config, repository, &commit, &[]))
    {
        note(format_args!("{} is already complete, at {commit}", standing.path().display()));
        return standing.announce(files);
    }
    let plan = plan(listing, repository, &config.selection, &connector).await?;
    plan.tell();
    if config.is_dry_run {
        return show(&plan.files);
    }
    let record = record_of(config, repository, &commit, &plan.files);

    let layout = match Layout::open(config, repository, &commit) {
        Err(error) if error.kind() == Kind::Denied && !config.force => {
            return use_where_nothing_can_be_written(config, repository, &record, error);
        }
        layout => layout?,
    };
    let last = layout.last_record()?;
    let mut known = layout.begun()?;
    if let Some(other) = last.iter().chain(&known).find(|record| record.repository != repository.id)
        && !config.force
    {
        return Err(error!("{} holds {}", layout.path().display(), other.repository)
            .hint("choose another directory with -o, or replace it with --force"));
    }
    known.extend(last.clone());
    let missing = missing_files(config, &layout, &plan.files, last.as_ref(), &known)?;
    if !missing.is_empty() {
        layout.begin_change(&record)?;
        bring(config, repository, &connector, &commit, &layout, &plan.files, &missing).await?;
    } else if last.as_ref() == Some(&record) {
        note(format_args!("{} is already complete, at {commit}", layout.path().display()));
    }
    layout.remove_stale(&known, &plan.listed())?;
    let path = layout.path();
    layout.complete(&record)?;
    print_path(&path)
}

/// Lists the repository with the user's token, and without it where the server refuses the token, for
/// example because it has expired: a public repository needs none.
async fn list_with_or_without_token(
    config: &Config,
    connector: &Connector,
    repository: &mut Repository,
) -> Result<Listing> {
    let failure = match list(&connector.connect()?, repository, &config.revision).await {
        Err(failure) if is_about_the_token(&failure, repository) => failure,
        answer => return answer.map_err(|failure| give_up(failure, repository)),
    };
    let token = repository.token.take();
    let name = token.as_ref().map_or("the token", |token| token.name()).to_string();
    match list(&connector.connect()?, repository, &config.revision).await {
        Ok(listing) => {
            warn(format_args!("the server refuses {name} ({failure}); going on without it"));
            Ok(listing)
        }
        Err(_) => {
            repository.token = token;
            Err(error!("{repository}: the server refuses {name} ({failure})")
                .hint(format_args!("make a new token on the hub's settings page, or take {name} away")))
        }
    }
}

/// Whether a refusal says that the token itself is not accepted: to a good one, a repository that it
/// may not read does not exist.
fn is_about_the_token(failure: &Failure, repository: &Repository) -> bool {
    let Failure::Refused { status, code, .. } = failure else { return false };
    let code = code.as_deref();
    repository.token.is_some() && *status == StatusCode::UNAUTHORIZED && code != Some("GatedRepo")
        || repository.token.is_some() && *status == StatusCode::FORBIDDEN && code.is_none()
}

/// Prints the size in bytes and the name of each file, for `--dry-run`.
fn show(files: &[PlannedFile]) -> Result<()> {
    for file in files {
        answer(format_args!("{:>15} {}\n", file.size, file.path))?;
    }
    note(format_args!("{} files, {}", files.len(), Size(files.iter().map(|file| file.size).sum())));
    Ok(())
}

/// The files that are not there yet. Prints the paths of those that are. `last` is the record of the last
/// complete copy, `known` are the records of all that earlier runs have written.
fn missing_files(
    config: &Config,
    layout: &Layout,
    files: &[PlannedFile],
    last: Option<&Record>,
    known: &[Record],
) -> Result<Vec<PlannedFile>> {
    let mut versions: HashMap<&str, Vec<&RecordedFile>> = HashMap::new();
    for file in known.iter().flat_map(|record| &record.files) {
        versions.entry(&file.path).or_default().push(file);
    }
    let recorded: HashMap<&str, &RecordedFile> =
        last.iter().flat_map(|record| &record.files).map(|file| (file.path.as_str(), file)).collect();
    let recorded_at = fs_err::metadata(layout.record().path()).and_then(|found| found.modified()).ok();
    let mut missing = Vec::new();
    for file in files {
        check_interrupted()?;
        let entry = layout.bytes_of(file)?;
        let (path, is_empty) = (entry.path(), entry.look()?.is_none());
        let recorded = recorded.get(file.path.as_str()).copied();
        let versions = versions.get(file.path.as_str()).map_or(&[][..], Vec::as_slice);
        let is_listed = !versions.is_empty() || layout.may_replace_all();
        let is_ours = || {
            let unchanged = versions.iter().map(|version| is_unchanged(&path, version));
            Ok::<_, Error>(layout.may_replace_all() || unchanged.collect::<Result<Vec<_>>>()?.contains(&true))
        };
        if is_empty || config.force && is_listed {
            missing.push(file.clone());
        } else if is_there(&path, file, recorded, recorded_at)? {
            print_path(&layout.found(file)?)?;
        } else if is_ours()? {
            missing.push(file.clone());
        } else {
            return Err(in_the_way(&path, is_listed));
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
    // A link to a place that is not there is not the file.
    let Ok(found) = fs_err::metadata(path) else { return Ok(false) };
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

/// Downloads those of `files` that are `missing`.
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
        remotes.push(RemoteFile::new(file.path.clone(), url, partial));
    }
    check_room(layout.scratch().folder(), remotes.iter().map(|remote| &remote.partial))?;
    let mut wanted = Vec::new();
    for (remote, file) in remotes.into_iter().zip(missing) {
        let done = remote.partial.prepare()?;
        wanted.push(WantedFile { remote, digest: file.digest.clone(), done });
    }
    let total: u64 = files.iter().map(|file| file.size).sum();
    let left: u64 = wanted.iter().map(|wanted| wanted.remote.partial.size - wanted.there()).sum();
    note(format_args!("{repository} at {commit}: {} files, {}", files.len(), how_much(total, total - left)));
    transfer::run(wanted, connector.clone(), repository.token.clone(), &config.network, |index, remote| {
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
        endpoint: hide_secrets(repository.endpoint.as_str()),
        revision: config.revision.clone(),
        commit: commit.to_string(),
        selection: config.selection.written.clone(),
        files: files.iter().map(file).collect(),
    }
}

/// Uses a complete copy that answers the same request, because the hub cannot be asked: `error` says why.
fn use_complete_copy(config: &Config, repository: &Repository, error: Error) -> Result<()> {
    if config.force || config.is_dry_run {
        return Err(error);
    }
    let wanted = record_of(config, repository, "", &[]);
    match Standing::find(config, repository)? {
        Some(standing) if standing.announce_unasked(&wanted, config, &error.to_string())? => Ok(()),
        _ => Err(error),
    }
}

/// Uses a complete copy, because the environment variable `variable` forbids requests.
fn use_what_is_there(config: &Config, repository: &Repository, variable: &str) -> Result<()> {
    let unset = format!("unset {variable} to download it");
    let why = error!("{variable} is set, and there is no complete copy of {repository} here");
    let elsewhere = match &config.destination {
        Destination::Path(_) => common::hub_cache::find(&repository.id, repository.kind.plural()),
        Destination::Cache(_) => None,
    };
    let error = match elsewhere {
        Some(_) => {
            why.hint(format_args!("fetch --cache {} uses the hub's cache; or {unset}", quoted(repository)))
        }
        None => why.hint(unset),
    };
    if config.force || config.is_dry_run {
        return Err(error);
    }
    let wanted = record_of(config, repository, "", &[]);
    let reason = format!("{variable} is set");
    match Standing::find(config, repository)? {
        Some(standing) if standing.announce_unasked(&wanted, config, &reason)? => Ok(()),
        _ => Err(error),
    }
}

/// Uses a complete and right copy where nothing can be written: `error` says why.
fn use_where_nothing_can_be_written(
    config: &Config,
    repository: &Repository,
    record: &Record,
    error: Error,
) -> Result<()> {
    match Standing::find(config, repository)? {
        Some(standing) if standing.holds(record)? => {
            let path = standing.path().display();
            note(format_args!(
                "{path} is complete, at {}, though nothing can be written there",
                record.commit
            ));
            standing.announce(&record.files)
        }
        _ => Err(error),
    }
}
