//! Which files a repository has at a revision.

use std::collections::HashSet;

use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::api::{ask, read_json};
use super::{Connection, Failure, Repository};
use crate::disk::digest::Digest;

/// Most files of one repository; the hub itself advises against more than 100,000.
const MOST_FILES: usize = 1_000_000;
/// Most pages of one listing.
const MOST_PAGES: usize = 10_000;
/// Most files for which a revision's siblings are trusted to be complete; for more of them the hub's own
/// client (huggingface_hub, `LARGE_REPO_THRESHOLD`) asks for the tree, too.
const MOST_SIBLINGS: usize = 1000;

/// A repository at one commit.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The commit, or the revision asked for where the server names no commit.
    pub commit: String,
    /// All files, in the server's order.
    pub files: Vec<ListedFile>,
}

/// One file of a repository, as the hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedFile {
    /// Name inside the repository, with `/` between directories. Not yet checked.
    pub path: String,
    /// Length in bytes, where the listing says so.
    pub size: Option<u64>,
    /// What its content hashes to, where the listing says so.
    pub digest: Option<Digest>,
    /// Whether the listing tells large-file storage from git, so that a digest is that of the content.
    pub is_certain: bool,
}

#[derive(Deserialize)]
struct RevisionInfo {
    sha: Option<String>,
    siblings: Option<Vec<Entry>>,
}

/// One of the siblings that come with a revision, or an entry of the tree, which spells the same keys
/// differently and also lists directories.
#[derive(Deserialize)]
struct Entry {
    r#type: Option<String>,
    #[serde(alias = "rfilename")]
    path: String,
    size: Option<u64>,
    #[serde(alias = "blobId")]
    oid: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    #[serde(alias = "sha256")]
    oid: Option<String>,
    size: Option<u64>,
}

/// Asks for the commit that `revision` names and for its files; further requests are made only where the
/// first answer lacks sizes or hashes.
pub(crate) async fn list(
    connection: &Connection,
    repository: &Repository,
    revision: &str,
) -> Result<Listing, Failure> {
    let info = revision_info(connection, repository, revision).await?;
    let commit = match info.sha {
        Some(sha) if is_commit(&sha) => sha,
        Some(sha) => {
            return Err(common::error!(
                Network,
                "{}: the server names the commit {sha:?}, which is none",
                repository.id
            )
            .into());
        }
        None => revision.to_string(),
    };
    let siblings: Vec<ListedFile> = info.siblings.into_iter().flatten().map(listed_file).collect();
    let is_known = |file: &ListedFile| file.size.is_some() && file.digest.is_some();
    let tells_all = (1..=MOST_SIBLINGS).contains(&siblings.len()) && siblings.iter().all(is_known);
    let mut files = if tells_all {
        siblings
    } else {
        match tree(connection, repository, &commit).await {
            // A simple mirror may know the names only; each file is then asked about on its own.
            Err(Failure::Refused { status, .. }) if !siblings.is_empty() && has_no_such_api(status) => {
                siblings
            }
            answer => answer?,
        }
    };
    // A mirror that leaves large-file storage out names the pointer's hash instead of the content's.
    let tells_large_files = files.iter().any(|file| matches!(file.digest, Some(Digest::Sha256(_))));
    files.iter_mut().for_each(|file| file.is_certain = tells_large_files);
    Ok(Listing { commit, files })
}

fn has_no_such_api(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
}

async fn revision_info(
    connection: &Connection,
    repository: &Repository,
    revision: &str,
) -> Result<RevisionInfo, Failure> {
    let mut url = repository.api_url(&["revision", revision]);
    url.set_query(Some("blobs=true"));
    let answer = ask(connection, Method::GET, &url, repository.token.as_ref()).await?;
    parse(&url, read_json(connection, answer).await?)
}

async fn tree(
    connection: &Connection,
    repository: &Repository,
    commit: &str,
) -> Result<Vec<ListedFile>, Failure> {
    let mut url = repository.api_url(&["tree", commit]);
    url.set_query(Some("recursive=true&expand=false"));
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    loop {
        if !seen.insert(url.clone()) || seen.len() > MOST_PAGES {
            return Err(common::error!(Network, "{url}: the pages of the listing do not end").into());
        }
        let answer = ask(connection, Method::GET, &url, repository.token.as_ref()).await?;
        let next = next_page(&answer.first_headers, &url);
        let entries: Vec<Entry> = parse(&url, read_json(connection, answer).await?)?;
        files.extend(
            entries.into_iter().filter(|entry| entry.r#type.as_deref() == Some("file")).map(listed_file),
        );
        if files.len() > MOST_FILES {
            return Err(common::error!(Network, "{url}: more than {MOST_FILES} files").into());
        }
        match next {
            Some(next) => url = next,
            None => return Ok(files),
        }
    }
}

fn listed_file(entry: Entry) -> ListedFile {
    let (size, digest) = match entry.lfs {
        Some(large) => (
            large.size.or(entry.size),
            large.oid.and_then(|oid| Digest::sha256(oid.strip_prefix("sha256:").unwrap_or(&oid))),
        ),
        None => (entry.size, entry.oid.and_then(|oid| Digest::git_sha1(&oid))),
    };
    ListedFile { path: entry.path, size, digest, is_certain: false }
}

fn parse<T: serde::de::DeserializeOwned>(url: &Url, json: serde_json::Value) -> Result<T, Failure> {
    serde_json::from_value(json)
        .map_err(|error| Failure::Fatal(common::error!(Network, "{url}: not the hub's API: {error}")))
}

/// The `Link: <...>; rel="next"` of a page; followed on the same server only.
fn next_page(headers: &reqwest::header::HeaderMap, url: &Url) -> Option<Url> {
    let link = headers.get(reqwest::header::LINK)?.to_str().ok()?;
    let target = link.split(',').find_map(|one| {
        let (target, parameters) = one.trim().strip_prefix('<')?.split_once('>')?;
        parameters.contains("rel=\"next\"").then_some(target)
    })?;
    // A mirror passes on the hub's own address; the page is then asked of the mirror.
    let mut next = url.join(target).ok()?;
    if next.origin() != url.origin() {
        let query = next.query().map(str::to_string);
        next = url.clone();
        next.set_query(query.as_deref());
    }
    Some(next)
}

/// A full git object name.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
