//! From a listing to the files that have to be fetched: names checked, selection applied, sizes known.

use std::collections::HashSet;
use std::sync::Arc;

use common::cli::{hide_secrets, note, warn};
use common::{Result, bail, error};
use tokio::task::JoinSet;

use crate::disk::digest::Digest;
use crate::hub::{Connector, ListedFile, Listing, Repository, RepositoryKind, describe, give_up};
use crate::select::globs::Selection;

/// Nothing can be done with a model before this file is there.
const CONFIG: &str = "config.json";
/// Files of at least this many bytes come last, in the server's order; the others come by size.
const LARGE: u64 = 64 << 20;
/// Files asked about at a time.
const ASKED_AT_ONCE: usize = 8;

/// A file that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedFile {
    /// Name inside the repository; checked.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// What its content must hash to, where the server says so.
    pub digest: Option<Digest>,
}

/// What is wanted of a listing, in the order in which it is to be fetched.
pub(crate) struct Plan {
    /// The wanted files.
    pub files: Vec<PlannedFile>,
    /// Names that were left out.
    pub left_out: Vec<String>,
    /// Names that are never fetched, because a program on this machine may obey such files.
    pub refused: Vec<String>,
}

impl Plan {
    /// The names of all files that the repository has.
    pub(crate) fn listed(&self) -> HashSet<&str> {
        let others = self.left_out.iter().chain(&self.refused).map(String::as_str);
        self.files.iter().map(|file| file.path.as_str()).chain(others).collect()
    }

    /// Says which files of the repository are not fetched.
    pub(crate) fn tell(&self) {
        if !self.refused.is_empty() {
            warn(format_args!("not fetched, because programs may obey such files: {}", some(&self.refused)));
        }
        if !self.left_out.is_empty() {
            let (count, names) = (self.left_out.len(), some(&self.left_out));
            note(format_args!("left out: {count} files ({names}); --include '*' brings all"));
        }
    }
}

/// The first three of several names, for a message.
pub(crate) fn some(names: &[String]) -> String {
    match names {
        [.., _] if names.len() > 3 => format!("{} ...", names[..3].join(", ")),
        _ => names.join(", "),
    }
}

/// Chooses the wanted files of a listing, checks their names and asks for what the listing lacks.
pub(crate) async fn plan(
    listing: Listing,
    repository: &Repository,
    selection: &Selection,
    connector: &Connector,
) -> Result<Plan> {
    let (refused, listed): (Vec<_>, Vec<_>) =
        listing.files.into_iter().partition(|file| crate::select::names::is_obeyed(&file.path));
    let refused: Vec<String> = refused.into_iter().map(|file| file.path).collect();
    let names: Vec<&str> = listed.iter().map(|file| file.path.as_str()).collect();
    let wanted = selection.choose(&names, repository.kind == RepositoryKind::Model)?;
    let (mut files, mut left_out) = (Vec::new(), Vec::new());
    for (file, wanted) in listed.into_iter().zip(wanted) {
        match wanted {
            true => files.push(file),
            false => left_out.push(file.path),
        }
    }
    crate::select::names::check_all(files.iter().map(|file| file.path.as_str()))?;
    if files.is_empty() {
        let refused = match refused.is_empty() {
            true => String::new(),
            false => format!(", but for some that programs may obey: {}", some(&refused)),
        };
        bail!(Missing, "{} has no files at {}{refused}", repository.id, listing.commit);
    }
    if let Some(file) = files.iter().find(|file| hide_secrets(&file.path) != file.path) {
        bail!(Network, "the server lists a file whose name holds your token: {}", file.path);
    }
    let files = complete(files, repository, &listing.commit, connector).await?;
    let mut files: Vec<PlannedFile> = files.into_iter().map(known).collect::<Result<_>>()?;
    files.sort_by_key(|file| match file.size {
        LARGE.. => (2, 0),
        size if file.path != CONFIG => (1, size),
        _ => (0, 0),
    });
    if files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size)).is_none() {
        bail!(Network, "{}: the sizes that the server lists are absurd", repository.id);
    }
    Ok(Plan { files, left_out, refused })
}

/// Asks about each file whose size or hash the listing leaves open.
async fn complete(
    mut files: Vec<ListedFile>,
    repository: &Repository,
    commit: &str,
    connector: &Connector,
) -> Result<Vec<ListedFile>> {
    let open = |file: &ListedFile| file.size.is_none() || file.digest.is_none() || !file.is_certain;
    let open: Arc<Vec<(usize, String)>> = Arc::new(
        files
            .iter()
            .enumerate()
            .filter(|(_, file)| open(file))
            .map(|(i, file)| (i, file.path.clone()))
            .collect(),
    );
    let mut workers = JoinSet::new();
    for worker in 0..ASKED_AT_ONCE.min(open.len()) {
        let (connection, repository, commit, open) =
            (connector.connect()?, repository.clone(), commit.to_string(), open.clone());
        workers.spawn(async move {
            let mut answers = Vec::new();
            for (index, path) in open.iter().skip(worker).step_by(ASKED_AT_ONCE) {
                let url = repository.file_url(&commit, path);
                let answer = describe(&connection, &url, repository.token.as_ref()).await;
                answers
                    .push((*index, answer.map_err(|failure| give_up(failure, &repository).context(path))?));
            }
            Ok::<_, common::Error>(answers)
        });
    }
    while let Some(answers) = workers.join_next().await {
        for (index, found) in answers.map_err(|failed| error!(Bug, "{failed}"))?? {
            let file = &mut files[index];
            file.size = file.size.or(found.size);
            file.digest = found.digest.or(file.digest.take());
        }
    }
    Ok(files)
}

fn known(file: ListedFile) -> Result<PlannedFile> {
    let Some(size) = file.size else {
        bail!(Network, "{}: the server does not say how long it is", file.path);
    };
    Ok(PlannedFile { path: file.path, size, digest: file.digest })
}
