//! Which files a repository has at a revision.

use std::collections::HashSet;

use common::Result;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::api::{ask, give_up, read_json};
use super::{Connection, Failure, RemoteFile, Repository};
use crate::verify::Digest;

/// Most files of one repository; the hub itself advises against more than 100,000.
const MOST_FILES: usize = 1_000_000;
/// Most pages of one listing.
const MOST_PAGES: usize = 10_000;

/// A repository at one commit.
#[derive(Debug)]
pub struct Listing {
    /// The commit, or the revision asked for where the server names no commit.
    pub commit: String,
    /// All files, in the server's order.
    pub files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct RevisionInfo {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    r#type: String,
    path: String,
    size: Option<u64>,
    oid: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    #[serde(alias = "sha256")]
    oid: Option<String>,
    size: Option<u64>,
}

/// Asks for the commit behind `revision`, then for the files of that commit.
pub async fn list(connection: &Connection, repository: &Repository, revision: &str) -> Result<Listing> {
    let tell = |failure| give_up(failure, repository);
    let info = revision_info(connection, repository, revision).await.map_err(tell)?;
    let commit = match info.sha {
        Some(sha) if is_commit(&sha) => sha,
        Some(sha) => common::bail!("{}: the server names the commit {sha:?}, which is none", repository.id),
        None => revision.to_string(),
    };
    let files = match tree(connection, repository, &commit).await {
        Ok(files) => files,
        // A simple mirror may know the names only; each file is then asked about on its own.
        Err(Failure::Refused { status, .. })
            if !info.siblings.is_empty()
                && matches!(
                    status,
                    StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
                ) =>
        {
            let named = |sibling: Sibling| RemoteFile {
                path: sibling.rfilename,
                size: None,
                digest: None,
                is_certain: false,
            };
            info.siblings.into_iter().map(named).collect()
        }
        Err(failure) => return Err(tell(failure)),
    };
    Ok(Listing { commit, files })
}

async fn revision_info(
    connection: &Connection,
    repository: &Repository,
    revision: &str,
) -> Result<RevisionInfo, Failure> {
    let url = repository.api_url(&["revision", revision]);
    let answer = ask(connection, Method::GET, &url, repository.token.as_ref()).await?;
    parse(&url, read_json(connection, answer).await?)
}

async fn tree(
    connection: &Connection,
    repository: &Repository,
    commit: &str,
) -> Result<Vec<RemoteFile>, Failure> {
    let mut url = repository.api_url(&["tree", commit]);
    url.set_query(Some("recursive=true&expand=false"));
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    loop {
        if !seen.insert(url.clone()) || seen.len() > MOST_PAGES {
            return Err(common::error!("{url}: the pages of the listing do not end").into());
        }
        let answer = ask(connection, Method::GET, &url, repository.token.as_ref()).await?;
        let next = next_page(&answer.first_headers, &url);
        let entries: Vec<TreeEntry> = parse(&url, read_json(connection, answer).await?)?;
        files.extend(entries.into_iter().filter(|entry| entry.r#type == "file").map(remote_file));
        if files.len() > MOST_FILES {
            return Err(common::error!("{url}: more than {MOST_FILES} files").into());
        }
        match next {
            Some(next) => url = next,
            None => break,
        }
    }
    // A mirror that leaves large-file storage out names the pointer's hash instead of the content's.
    let tells_large_files = files.iter().any(|file| matches!(file.digest, Some(Digest::Sha256(_))));
    files.iter_mut().for_each(|file| file.is_certain = tells_large_files);
    Ok(files)
}

fn remote_file(entry: TreeEntry) -> RemoteFile {
    let (size, digest) = match entry.lfs {
        Some(large) => (
            large.size.or(entry.size),
            large.oid.and_then(|oid| Digest::sha256(oid.strip_prefix("sha256:").unwrap_or(&oid))),
        ),
        None => (entry.size, entry.oid.and_then(|oid| Digest::git_sha1(&oid))),
    };
    RemoteFile { path: entry.path, size, digest, is_certain: true }
}

fn parse<T: serde::de::DeserializeOwned>(url: &Url, json: serde_json::Value) -> Result<T, Failure> {
    serde_json::from_value(json)
        .map_err(|error| Failure::Fatal(common::error!("{url}: not the hub's API: {error}")))
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
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
