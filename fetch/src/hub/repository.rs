//! A repository of a hub: its kind, its name and the addresses of its files.

use common::{Error, Result};
use reqwest::Url;

use super::Token;
use super::address::join;

/// The kinds of repository a hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RepositoryKind {
    /// Weights and what belongs to them
    Model,
    /// Training or evaluation data
    Dataset,
    /// An application
    Space,
}

impl RepositoryKind {
    /// The plural that the hub's API and cache use.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
            Self::Space => "spaces",
        }
    }

    /// The segment that the address of a file has before the repository's name.
    pub(crate) fn prefix(self) -> Option<&'static str> {
        match self {
            Self::Model => None,
            other => Some(other.plural()),
        }
    }
}

/// A repository on a hub.
#[derive(Clone)]
pub(crate) struct Repository {
    /// The address of the hub.
    pub endpoint: Url,
    /// Whether it is a model, a data set or a space.
    pub kind: RepositoryKind,
    /// The name, `owner/name` or `name`.
    pub id: String,
    /// The token, which is sent to this hub only.
    pub token: Option<Token>,
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.id)
    }
}

impl Repository {
    /// `ENDPOINT/api/models/ID/...`
    pub(super) fn api_url(&self, rest: &[&str]) -> Url {
        let mut parts = vec!["api", self.kind.plural()];
        parts.extend(self.id.split('/'));
        parts.extend(rest);
        join(&self.endpoint, &parts)
    }

    /// Where the content of a file is, or where the hub redirects from.
    pub(crate) fn file_url(&self, revision: &str, path: &str) -> Url {
        file_url(&self.endpoint, self.kind, &self.id, revision, path)
    }
}

/// The address from which a hub sends the content of a file, or redirects to it.
pub(crate) fn file_url(endpoint: &Url, kind: RepositoryKind, id: &str, revision: &str, path: &str) -> Url {
    let mut parts: Vec<&str> = kind.prefix().into_iter().chain(id.split('/')).collect();
    parts.extend(["resolve", revision]);
    parts.extend(path.split('/'));
    join(endpoint, &parts)
}

/// The hub's own rule for repository names.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let part_is_fine = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.starts_with(['.', '-'])
            && !part.ends_with(['.', '-'])
            && !part.contains("..")
            && !part.contains("--")
    };
    if id.split('/').count() <= 2 && id.split('/').all(part_is_fine) {
        return Ok(());
    }
    Err(Error::usage(format!("{id:?} is not a repository name or a URL"))
        .hint("a repository is OWNER/NAME, as in Qwen/Qwen2.5-7B-Instruct"))
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
        let model = repository("https://hub.example", RepositoryKind::Model);
        assert_eq!(
            model.file_url("refs/pr/1", "x y/z#.json").as_str(),
            "https://hub.example/a/b/resolve/refs%2Fpr%2F1/x%20y/z%23.json"
        );
        assert_eq!(
            model.api_url(&["revision", "main"]).as_str(),
            "https://hub.example/api/models/a/b/revision/main"
        );
        let dataset = repository("http://127.0.0.1:81/mirror/", RepositoryKind::Dataset);
        assert_eq!(
            dataset.file_url("main", "a").as_str(),
            "http://127.0.0.1:81/mirror/datasets/a/b/resolve/main/a"
        );
    }
}
