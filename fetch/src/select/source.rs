//! What the user asks for: a repository of a hub, or the URL of one file.

use common::{Error, Result};
use reqwest::Url;

use crate::select::page::{self, Part};

/// The name by which MMLU is known, and its repository. Names of training data are LLaMA-Factory's.
const MMLU: (&str, &str) = ("mmlu", "cais/mmlu");

/// The kinds of repository a hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Weights and what belongs to them
    Model,
    /// Training or evaluation data
    Dataset,
    /// An application
    Space,
}

impl Kind {
    /// The plural that the hub's API and cache use.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
            Self::Space => "spaces",
        }
    }

    /// The name that addresses of files have before the repository's.
    pub fn prefix(self) -> Option<&'static str> {
        match self {
            Self::Model => None,
            other => Some(other.plural()),
        }
    }
}

/// The repository of a data set that is known by a name without an owner.
fn known_data_set(name: &str) -> Option<String> {
    if name == MMLU.0 { Some(MMLU.1.to_owned()) } else { common::data::known_repository(name) }
}

/// Where the bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A repository `owner/name` (or `name`) of a hub.
    Repository {
        /// Model or data set.
        kind: Kind,
        /// `owner/name`.
        id: String,
        /// Of a page that was copied from a browser.
        revision: Option<String>,
        /// The folder that such a page shows.
        folder: Option<String>,
    },
    /// One file, by its address.
    Url(Url),
}

impl Source {
    /// Understands what the user wrote. `endpoint` tells a hub's page from any other URL.
    pub fn parse(text: &str, kind: Option<Kind>, endpoint: &Url) -> Result<Self> {
        let with_scheme = page::with_scheme(text);
        let text = with_scheme.as_deref().unwrap_or(text);
        if text.contains("://") {
            let url = Url::parse(text)
                .map_err(|error| Error::usage(format!("{text:?} is not an address: {error}")))?;
            return Self::parse_url(url, kind, endpoint);
        }
        if kind != Some(Kind::Model)
            && let Some(id) = known_data_set(text)
        {
            return Ok(Self::repository(Kind::Dataset, &id));
        }
        check_id(text)?;
        Ok(Self::repository(kind.unwrap_or(Kind::Model), text))
    }

    fn repository(kind: Kind, id: &str) -> Self {
        Self::Repository { kind, id: id.to_string(), revision: None, folder: None }
    }

    fn parse_url(url: Url, kind: Option<Kind>, endpoint: &Url) -> Result<Self> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::usage(format!("{url}: only http and https can be fetched")));
        }
        let Some(page) = page::parse(&url, endpoint)? else { return Ok(Self::Url(url)) };
        let kind = page.kind.or(kind).unwrap_or(Kind::Model);
        let folder = match page.part {
            Part::All => None,
            Part::Folder(folder) => Some(folder),
            Part::File(path) => {
                let revision = page.revision.unwrap_or_else(|| "main".into());
                return Ok(Self::Url(file_url(endpoint, kind, &page.id, &revision, &path)));
            }
        };
        Ok(Self::Repository { kind, id: page.id, revision: page.revision, folder })
    }

    /// The name of the result where the user gives none: the last part of the source's own name.
    pub fn default_name(&self) -> Result<String> {
        match self {
            Self::Repository { id, .. } => Ok(id.rsplit('/').next().unwrap_or(id).to_string()),
            Self::Url(url) => {
                let last = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
                let name = percent_decode(last);
                if name.is_empty() {
                    return Err(Error::usage(format!("{url} names no file")).hint("name it with -o FILE"));
                }
                crate::select::names::check(&name)
                    .and_then(|()| match name.contains('/') || crate::select::names::is_obeyed(&name) {
                        true => {
                            Err(common::error!(Usage, "{name:?} is not a name for a file that is fetched"))
                        }
                        false => Ok(name),
                    })
                    .map_err(|error| error.hint("name the file with -o FILE"))
            }
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Repository { id, .. } => f.write_str(id),
            Self::Url(url) => write!(f, "{url}"),
        }
    }
}

/// Where the content of a file is, or where the hub redirects from.
pub fn file_url(endpoint: &Url, kind: Kind, id: &str, revision: &str, path: &str) -> Url {
    let mut parts: Vec<&str> = kind.prefix().into_iter().chain(id.split('/')).collect();
    parts.extend(["resolve", revision]);
    parts.extend(path.split('/'));
    join(endpoint, &parts)
}

/// `base` with path segments added, each percent-encoded.
pub fn join(base: &Url, parts: &[&str]) -> Url {
    let mut url = base.clone();
    // Only addresses without a host have no segments, and an endpoint has one.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(parts);
    }
    url
}

/// The hub's own rule for repository names.
pub fn check_id(id: &str) -> Result<()> {
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

/// Decodes `%XX`; what does not decode to UTF-8 stays as it was.
pub fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let decoded = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, kind: Option<Kind>) -> Result<Source> {
        Source::parse(text, kind, &Url::parse("https://hub.example").unwrap())
    }

    #[test]
    fn repositories_pages_files_and_known_data_sets() {
        assert_eq!(parse("a/b", None).unwrap(), Source::repository(Kind::Model, "a/b"));
        assert_eq!(parse("a/b", Some(Kind::Dataset)).unwrap(), Source::repository(Kind::Dataset, "a/b"));
        assert_eq!(parse("https://hub.example/a/b", None).unwrap(), Source::repository(Kind::Model, "a/b"));
        assert_eq!(
            parse("https://hub.example/datasets/a/b/", None).unwrap(),
            Source::repository(Kind::Dataset, "a/b")
        );
        assert_eq!(
            parse("alpaca_gpt4_zh", None).unwrap(),
            Source::repository(Kind::Dataset, "llamafactory/alpaca_gpt4_zh")
        );
        assert!(matches!(parse("https://other.example/a/b", None).unwrap(), Source::Url(_)));
        for page in ["resolve/main/c%20d?download=true", "blob/main/c%20d#L3", "raw/main/c%20d"] {
            let url = "https://hub.example/a/b/resolve/main/c%20d";
            let parsed = parse(&format!("https://hub.example/a/b/{page}"), None).unwrap();
            assert_eq!(parsed, Source::Url(Url::parse(url).unwrap()), "{page}");
        }
        // The public hub's pages are fetched from the server that is asked.
        assert_eq!(
            parse("huggingface.co/datasets/a/b/tree/v1/data", None).unwrap(),
            Source::Repository {
                kind: Kind::Dataset,
                id: "a/b".into(),
                revision: Some("v1".into()),
                folder: Some("data".into())
            }
        );
    }

    #[test]
    fn what_is_neither_is_wrong_usage() {
        for text in [
            "https://",
            "https://hub.example/a/b/blob/main",
            "",
            "a/b/c",
            "../b",
            "a/..",
            "a b/c",
            "ftp://x/y",
            "-x/y",
            "a//b",
        ] {
            let error = parse(text, None).unwrap_err();
            assert_eq!(error.kind(), common::error::Kind::Usage, "{text}");
        }
    }

    #[test]
    fn results_are_named_after_their_source() {
        assert_eq!(parse("a/b", None).unwrap().default_name().unwrap(), "b");
        assert_eq!(
            parse("https://x.example/d/my%20file.json?k=1", None).unwrap().default_name().unwrap(),
            "my file.json"
        );
        for url in ["https://x.example/", "https://x.example/..%2Fup", "https://x.example/%0a"] {
            assert!(parse(url, None).unwrap().default_name().is_err(), "{url}");
        }
    }
}
