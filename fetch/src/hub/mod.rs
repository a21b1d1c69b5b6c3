//! The hub's HTTP API: which files a repository has at a revision, and where their bytes are.

mod api;
mod body;
mod connection;
mod describe;
mod http_date;
mod listing;
mod token;

use reqwest::Url;

use crate::disk::digest::Digest;
use crate::select::source::{Kind, file_url, join};

pub use api::{give_up, give_up_file};
pub use body::Body;
pub use connection::{Answer, Connection, Connector, Failure, Request, refuse_page};
pub use describe::{Description, describe};
pub use listing::{Listing, is_commit, list};
pub use token::Token;

/// A repository on a hub.
#[derive(Clone)]
pub struct Repository {
    /// The hub's address.
    pub endpoint: Url,
    /// Model, data set or space.
    pub kind: Kind,
    /// `owner/name`.
    pub id: String,
    /// For this hub only.
    pub token: Option<Token>,
}

/// One file of a repository, as the hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Name inside the repository, with `/` between directories. Not yet checked.
    pub path: String,
    /// Bytes, where the listing says so.
    pub size: Option<u64>,
    /// What its content hashes to, where the listing says so.
    pub digest: Option<Digest>,
    /// Whether the listing tells large-file storage from git, so that a digest is that of the content.
    pub is_certain: bool,
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.id)
    }
}

impl Repository {
    /// `ENDPOINT/api/models/ID/...`
    fn api_url(&self, rest: &[&str]) -> Url {
        let mut parts = vec!["api", self.kind.plural()];
        parts.extend(self.id.split('/'));
        parts.extend(rest);
        join(&self.endpoint, &parts)
    }

    /// Where the content of a file is, or where the hub redirects from.
    pub fn file_url(&self, revision: &str, path: &str) -> Url {
        file_url(&self.endpoint, self.kind, &self.id, revision, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let repository = |endpoint: &str, kind| Repository {
            endpoint: Url::parse(endpoint).unwrap(),
            kind,
            id: "a/b".into(),
            token: None,
        };
        let model = repository("https://hub.example", Kind::Model);
        assert_eq!(
            model.file_url("refs/pr/1", "x y/z#.json").as_str(),
            "https://hub.example/a/b/resolve/refs%2Fpr%2F1/x%20y/z%23.json"
        );
        assert_eq!(
            model.api_url(&["revision", "main"]).as_str(),
            "https://hub.example/api/models/a/b/revision/main"
        );
        let dataset = repository("http://127.0.0.1:81/mirror/", Kind::Dataset);
        assert_eq!(
            dataset.file_url("main", "a").as_str(),
            "http://127.0.0.1:81/mirror/datasets/a/b/resolve/main/a"
        );
    }
}
