//! Size and hash of one file, from the headers of a HEAD request.

use reqwest::header::{self, HeaderMap};
use reqwest::{Method, Url};

use super::api::ask;
use super::{Connection, Failure, Token, refuse_page};
use crate::disk::digest::Digest;

/// What a server says about a file without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    /// Bytes of the content.
    pub size: Option<u64>,
    /// What the content hashes to; only a hub says so.
    pub digest: Option<Digest>,
    /// The server's own mark for this content.
    pub etag: Option<String>,
    /// When it last changed, as the server writes it.
    pub last_modified: Option<String>,
}

/// Asks about the file at `url`.
pub(crate) async fn describe(
    connection: &Connection,
    url: &Url,
    token: Option<&Token>,
) -> Result<Description, Failure> {
    match ask(connection, Method::HEAD, url, token).await {
        // Some servers sign addresses for GET only.
        Err(Failure::Refused { .. }) => {}
        answer => {
            let answer = answer?;
            refuse_page(answer.response.headers(), &answer.url, name_of(url))?;
            let found = from_headers(&answer.first_headers, answer.response.headers());
            // Some say how long a file is only when they send it.
            if found.size.is_some() {
                return Ok(found);
            }
        }
    }
    let answer = ask(connection, Method::GET, url, token).await?;
    refuse_page(answer.response.headers(), &answer.url, name_of(url))?;
    Ok(from_headers(&answer.first_headers, answer.response.headers()))
}

fn name_of(url: &Url) -> &str {
    url.path().rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(url.path())
}

/// `first` are the headers of the hub, `last` those of the server it redirects to.
fn from_headers(first: &HeaderMap, last: &HeaderMap) -> Description {
    let text = |headers: &HeaderMap, name: &str| Some(headers.get(name)?.to_str().ok()?.trim().to_string());
    let linked_size = text(first, "x-linked-size").and_then(|size| size.parse().ok());
    let length = || text(last, header::CONTENT_LENGTH.as_str())?.parse().ok();
    let mut digest = text(first, "x-linked-etag").and_then(|etag| digest_of(&etag));
    // Elsewhere an etag may be the hash of anything.
    if digest.is_none() && first.contains_key("x-repo-commit") {
        digest = text(first, header::ETAG.as_str()).and_then(|etag| digest_of(&etag));
    }
    Description {
        size: linked_size.or_else(length),
        digest,
        etag: text(last, header::ETAG.as_str()),
        last_modified: text(last, header::LAST_MODIFIED.as_str()),
    }
}

/// Some mirrors send the etag without its quotes, some mark it as weak.
fn digest_of(etag: &str) -> Option<Digest> {
    let bare = etag.trim_start_matches("W/").trim_matches('"');
    Digest::sha256(bare).or_else(|| Digest::git_sha1(bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.insert(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn hubs_and_mirrors_and_plain_servers() {
        let sha256 = "a".repeat(64);
        let sha1 = "b".repeat(40);
        let quoted = format!("\"{sha256}\"");
        let hub = headers(&[
            ("x-linked-etag", &quoted),
            ("x-linked-size", "5"),
            ("etag", "\"other\""),
            ("content-length", "99"),
        ]);
        let found = from_headers(&hub, &headers(&[("content-length", "7"), ("etag", "\"cdn\"")]));
        assert_eq!((found.size, found.digest), (Some(5), Digest::sha256(&sha256)));
        assert_eq!(found.etag.as_deref(), Some("\"cdn\""), "ranges come from the second server");

        let mirror = headers(&[("x-repo-commit", "c"), ("etag", &sha1), ("content-length", "3")]);
        let found = from_headers(&mirror, &mirror);
        assert_eq!((found.size, found.digest), (Some(3), Digest::git_sha1(&sha1)));

        let plain = headers(&[("etag", &sha256), ("content-length", "3")]);
        let found = from_headers(&plain, &plain);
        assert_eq!((found.size, found.digest), (Some(3), None));
    }
}
