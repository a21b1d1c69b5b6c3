//! What the user asks for: a repository of a hub, or the URL of one file.

use common::{Error, Result};
use reqwest::Url;

/// Names by which the usual data sets are known, and their repositories.
const KNOWN_DATA_SETS: [(&str, &str); 5] = [
    ("alpaca_en", "llamafactory/alpaca_en"),
    ("alpaca_zh", "llamafactory/alpaca_zh"),
    ("alpaca_gpt4_en", "llamafactory/alpaca_gpt4_en"),
    ("alpaca_gpt4_zh", "llamafactory/alpaca_gpt4_zh"),
    ("mmlu", "cais/mmlu"),
];

/// The kinds of repository a hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Weights and what belongs to them
    Model,
    /// Training or evaluation data
    Dataset,
}

impl Kind {
    /// The plural that the hub's API and cache use.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
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
    },
    /// One file, by its address.
    Url(Url),
}

impl Source {
    /// Understands what the user wrote. `endpoint` tells a hub's page from any other URL.
    pub fn parse(text: &str, kind: Option<Kind>, endpoint: &Url) -> Result<Self> {
        if let Ok(url) = Url::parse(text)
            && text.contains("://")
        {
            return Self::parse_url(url, kind, endpoint);
        }
        if kind != Some(Kind::Model)
            && let Some((_, id)) = KNOWN_DATA_SETS.iter().find(|(name, _)| *name == text)
        {
            return Ok(Self::Repository { kind: Kind::Dataset, id: (*id).to_string() });
        }
        check_id(text)?;
        Ok(Self::Repository { kind: kind.unwrap_or(Kind::Model), id: text.to_string() })
    }

    fn parse_url(url: Url, kind: Option<Kind>, endpoint: &Url) -> Result<Self> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::usage(format!("{url}: only http and https can be fetched")));
        }
        // A repository's own page, as copied from a browser.
        if url.origin() == endpoint.origin() && url.query().is_none() {
            let path = url.path().trim_matches('/');
            let (page_kind, id) = match path.strip_prefix("datasets/") {
                Some(id) => (Kind::Dataset, id),
                None => (kind.unwrap_or(Kind::Model), path),
            };
            if id.matches('/').count() == 1 && check_id(id).is_ok() {
                return Ok(Self::Repository { kind: page_kind, id: id.to_string() });
            }
        }
        Ok(Self::Url(url))
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
                crate::names::check(&name)
                    .and_then(|()| match name.contains('/') {
                        true => Err(common::error!(Usage, "{name:?} is not a file name")),
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

/// The hub's own rule for repository names.
fn check_id(id: &str) -> Result<()> {
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
fn percent_decode(text: &str) -> String {
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

    fn repository(kind: Kind, id: &str) -> Source {
        Source::Repository { kind, id: id.to_string() }
    }

    #[test]
    fn repositories_pages_files_and_known_data_sets() {
        assert_eq!(parse("a/b", None).unwrap(), repository(Kind::Model, "a/b"));
        assert_eq!(parse("a/b", Some(Kind::Dataset)).unwrap(), repository(Kind::Dataset, "a/b"));
        assert_eq!(parse("https://hub.example/a/b", None).unwrap(), repository(Kind::Model, "a/b"));
        assert_eq!(
            parse("https://hub.example/datasets/a/b/", None).unwrap(),
            repository(Kind::Dataset, "a/b")
        );
        assert_eq!(
            parse("alpaca_gpt4_zh", None).unwrap(),
            repository(Kind::Dataset, "llamafactory/alpaca_gpt4_zh")
        );
        assert!(matches!(parse("https://other.example/a/b", None).unwrap(), Source::Url(_)));
        assert!(matches!(parse("https://hub.example/a/b/resolve/main/c", None).unwrap(), Source::Url(_)));
    }

    #[test]
    fn what_is_neither_is_wrong_usage() {
        for text in ["", "a/b/c", "../b", "a/..", "a b/c", "ftp://x/y", "-x/y", "a//b"] {
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
