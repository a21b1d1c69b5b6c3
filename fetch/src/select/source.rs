//! What the user asks for: a repository of a hub, or one file by its address.

use common::{Error, Result};
use reqwest::Url;

use crate::hub::{RepositoryKind, check_id, file_url, percent_decode};
use crate::select::names;
use crate::select::page::{self, Part};

/// The name by which MMLU is known, and its repository. Names of training data are LLaMA-Factory's.
const MMLU: (&str, &str) = ("mmlu", "cais/mmlu");

/// The repository of a data set that is known by a name without an owner.
fn known_data_set(name: &str) -> Option<String> {
    if name == MMLU.0 { Some(MMLU.1.to_owned()) } else { common::data::known_repository(name) }
}

/// What is to be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DownloadSource {
    /// A repository `owner/name` (or `name`) of a hub.
    Repository {
        /// Whether it is a model, a data set or a space.
        kind: RepositoryKind,
        /// The name, `owner/name` or `name`.
        id: String,
        /// The revision that a page copied from a browser shows.
        revision: Option<String>,
        /// The folder that such a page shows.
        folder: Option<String>,
    },
    /// One file, by its address.
    Url(Url),
}

impl DownloadSource {
    /// Reads what the user wrote. A page of the hub at `endpoint` names a repository or a file of it.
    pub(crate) fn parse(text: &str, kind: Option<RepositoryKind>, endpoint: &Url) -> Result<Self> {
        let with_scheme = page::with_scheme(text);
        let text = with_scheme.as_deref().unwrap_or(text);
        if text.contains("://") {
            let url = Url::parse(text)
                .map_err(|error| Error::usage(format!("{text:?} is not an address: {error}")))?;
            return Self::parse_url(url, kind, endpoint);
        }
        if kind != Some(RepositoryKind::Model)
            && let Some(id) = known_data_set(text)
        {
            return Ok(Self::repository(RepositoryKind::Dataset, &id));
        }
        check_id(text)?;
        Ok(Self::repository(kind.unwrap_or(RepositoryKind::Model), text))
    }

    fn repository(kind: RepositoryKind, id: &str) -> Self {
        Self::Repository { kind, id: id.to_string(), revision: None, folder: None }
    }

    fn parse_url(url: Url, kind: Option<RepositoryKind>, endpoint: &Url) -> Result<Self> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::usage(format!("{url}: only http and https can be fetched")));
        }
        let Some(page) = page::parse(&url, endpoint)? else { return Ok(Self::Url(url)) };
        let kind = page.kind.or(kind).unwrap_or(RepositoryKind::Model);
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

    /// The name of the result where the user gives none: the last part of the name of the source.
    pub(crate) fn default_name(&self) -> Result<String> {
        match self {
            Self::Repository { id, .. } => Ok(id.rsplit('/').next().unwrap_or(id).to_string()),
            Self::Url(url) => {
                let last = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
                let name = percent_decode(last);
                if name.is_empty() {
                    return Err(Error::usage(format!("{url} names no file")).hint("name it with -o FILE"));
                }
                names::check(&name)
                    .and_then(|()| match name.contains('/') || names::is_obeyed(&name) {
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

impl std::fmt::Display for DownloadSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Repository { id, .. } => f.write_str(id),
            Self::Url(url) => write!(f, "{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, kind: Option<RepositoryKind>) -> Result<DownloadSource> {
        DownloadSource::parse(text, kind, &Url::parse("https://hub.example").unwrap())
    }

    #[test]
    fn repositories_pages_files_and_known_data_sets() {
        assert_eq!(parse("a/b", None).unwrap(), DownloadSource::repository(RepositoryKind::Model, "a/b"));
        assert_eq!(
            parse("a/b", Some(RepositoryKind::Dataset)).unwrap(),
            DownloadSource::repository(RepositoryKind::Dataset, "a/b")
        );
        assert_eq!(
            parse("https://hub.example/a/b", None).unwrap(),
            DownloadSource::repository(RepositoryKind::Model, "a/b")
        );
        assert_eq!(
            parse("https://hub.example/datasets/a/b/", None).unwrap(),
            DownloadSource::repository(RepositoryKind::Dataset, "a/b")
        );
        assert_eq!(
            parse("alpaca_gpt4_zh", None).unwrap(),
            DownloadSource::repository(RepositoryKind::Dataset, "llamafactory/alpaca_gpt4_zh")
        );
        assert!(matches!(parse("https://other.example/a/b", None).unwrap(), DownloadSource::Url(_)));
        for page in ["resolve/main/c%20d?download=true", "blob/main/c%20d#L3", "raw/main/c%20d"] {
            let url = "https://hub.example/a/b/resolve/main/c%20d";
            let parsed = parse(&format!("https://hub.example/a/b/{page}"), None).unwrap();
            assert_eq!(parsed, DownloadSource::Url(Url::parse(url).unwrap()), "{page}");
        }
        // The public hub's pages are fetched from the server that is asked.
        assert_eq!(
            parse("huggingface.co/datasets/a/b/tree/v1/data", None).unwrap(),
            DownloadSource::Repository {
                kind: RepositoryKind::Dataset,
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
