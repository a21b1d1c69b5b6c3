//! Addresses of a hub's pages, as users copy them from a browser: the repository, revision and file
//! that a page shows.

use common::{Result, error};
use reqwest::Url;

use crate::hub::{RepositoryKind, check_id, percent_decode};

/// The names of the public hub, whose pages are understood whichever server is asked.
const PUBLIC: [&str; 4] = ["huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"];
/// First segments of addresses on the public hub that are not the name of a model.
const NO_MODELS: [&str; 16] = [
    "api",
    "blog",
    "chat",
    "collections",
    "docs",
    "join",
    "learn",
    "login",
    "models",
    "new",
    "organizations",
    "papers",
    "posts",
    "pricing",
    "settings",
    "tasks",
];

/// What a page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// The kind of repository that the address names; `None` for a model, whose addresses name none.
    pub kind: Option<RepositoryKind>,
    /// `OWNER/NAME`, or `NAME` alone.
    pub id: String,
    /// The revision, where the page is of one.
    pub revision: Option<String>,
    /// The part of the repository that the page shows.
    pub part: Part,
}

/// The part of a repository that a page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// The whole repository, or nothing that can be fetched on its own.
    All,
    /// A folder.
    Folder(String),
    /// A file.
    File(String),
}

/// Adds the `https://` that users leave out to an address that begins with the public hub's name.
pub(crate) fn with_scheme(text: &str) -> Option<String> {
    let host = text.split('/').next()?.to_ascii_lowercase();
    (PUBLIC.contains(&host.as_str()) && text.contains('/')).then(|| format!("https://{text}"))
}

/// What the page at `url` shows; `None` where `url` is not a page of the hub about a repository.
pub(crate) fn parse(url: &Url, endpoint: &Url) -> Result<Option<Page>> {
    let is_public = url.host_str().is_some_and(|host| PUBLIC.contains(&host));
    if !is_public && url.origin() != endpoint.origin() {
        return Ok(None);
    }
    // A hub may live below a path of its server.
    let base = if is_public { "/" } else { endpoint.path() };
    let Some(path) = url.path().strip_prefix(base.trim_end_matches('/')) else { return Ok(None) };
    let mut names: Vec<String> =
        path.split('/').filter(|name| !name.is_empty()).map(percent_decode).collect();
    let kind = match names.first().map(String::as_str) {
        Some("datasets") => Some(RepositoryKind::Dataset),
        Some("spaces") => Some(RepositoryKind::Space),
        _ => None,
    };
    if kind.is_some() {
        names.remove(0);
    }
    let is_verb = |name: Option<&String>| name.is_some_and(|name| Verb::parse(name).is_some());
    // Repositories from the hub's early days have no owner.
    let id_names = match names.len() {
        0 => return Ok(None),
        1 if kind.is_some() || is_public && !NO_MODELS.contains(&names[0].as_str()) => 1,
        1 => return Ok(None),
        3.. if is_verb(names.get(1)) && !is_verb(names.get(2)) => 1,
        _ if !is_public && names.len() > 2 && !is_verb(names.get(2)) => return Ok(None),
        _ => 2,
    };
    let rest = names.split_off(id_names);
    let id = names.join("/");
    let id = id.strip_suffix(".git").unwrap_or(&id).to_string();
    if check_id(&id).is_err() {
        return Ok(None);
    }
    let Some((verb, rest)) = rest.split_first() else {
        return Ok(Some(Page { kind, id, revision: None, part: Part::All }));
    };
    let Some(verb) = Verb::parse(verb) else {
        return Err(error!(Usage, "{url} is not a page of files")
            .hint(format_args!("name the repository: fetch {}", common::cli::quoted(&id))));
    };
    let (revision, below) = revision(rest);
    let part = match (verb, below.is_empty()) {
        (Verb::File, false) => Part::File(below.join("/")),
        (Verb::File, true) => {
            return Err(error!(Usage, "{url} names no file").hint("copy the address of the file's own page"));
        }
        (Verb::Folder, false) => Part::Folder(below.join("/")),
        _ => Part::All,
    };
    let revision = revision.filter(|_| verb != Verb::Other);
    Ok(Some(Page { kind, id, revision, part }))
}

/// What the name of a page says about the revision and the path that follow it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    File,
    Folder,
    Commit,
    Other,
}

impl Verb {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "resolve" | "blob" | "raw" | "blame" | "edit" => Self::File,
            "tree" => Self::Folder,
            "commit" | "commits" => Self::Commit,
            "discussions" | "viewer" | "settings" | "community" => Self::Other,
            _ => return None,
        })
    }
}

/// Splits the names of a path into a revision and the rest. A revision as `refs/pr/1` has slashes of its
/// own.
fn revision(names: &[String]) -> (Option<String>, &[String]) {
    let count = match names.first().map(String::as_str) {
        Some("refs") if names.len() >= 3 => 3,
        Some(_) => 1,
        None => return (None, names),
    };
    (Some(names[..count].join("/")), &names[count..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(url: &str) -> Option<(String, String)> {
        let endpoint = Url::parse("https://mirror.example/hub/").unwrap();
        let page = parse(&Url::parse(url).unwrap(), &endpoint).unwrap()?;
        let kind = page.kind.map_or("model", |kind| kind.plural());
        let revision = page.revision.unwrap_or_default();
        let part = match page.part {
            Part::All => String::new(),
            Part::Folder(folder) => format!("{folder}/*"),
            Part::File(file) => file,
        };
        Some((format!("{kind} {}", page.id), format!("{revision} {part}")))
    }

    #[test]
    fn pages_as_browsers_show_them() {
        for (url, repository, part) in [
            ("https://huggingface.co/a/b", "model a/b", " "),
            ("https://huggingface.co/a/b/?library=transformers#files", "model a/b", " "),
            ("https://huggingface.co/a/b.git", "model a/b", " "),
            ("https://hf.co/gpt2", "model gpt2", " "),
            ("https://huggingface.co/gpt2/tree/main", "model gpt2", "main "),
            ("https://huggingface.co/datasets/squad", "datasets squad", " "),
            ("https://huggingface.co/datasets/a/b/viewer/default/train", "datasets a/b", " "),
            ("https://huggingface.co/spaces/a/b/blob/main/app.py", "spaces a/b", "main app.py"),
            ("https://mirror.example/hub/a/b/tree/v1/onnx/x", "model a/b", "v1 onnx/x/*"),
            ("https://mirror.example/hub/a/b/blob/main/x%20y.json", "model a/b", "main x y.json"),
            ("https://mirror.example/hub/a/b/raw/refs%2Fpr%2F1/c.json", "model a/b", "refs/pr/1 c.json"),
            ("https://mirror.example/hub/a/b/resolve/refs/pr/1/d/c", "model a/b", "refs/pr/1 d/c"),
            ("https://mirror.example/hub/datasets/a/b/commit/abc", "datasets a/b", "abc "),
            ("https://mirror.example/hub/a/b/discussions/3", "model a/b", " "),
        ] {
            assert_eq!(page(url), Some((repository.into(), part.into())), "{url}");
        }
        for url in [
            "https://other.example/a/b",
            "https://mirror.example/a/b",
            "https://mirror.example/hub/file.json",
            "https://mirror.example/hub/some/other/file.json",
            "https://huggingface.co/pricing",
            "https://huggingface.co/",
        ] {
            assert_eq!(page(url), None, "{url}");
        }
    }

    #[test]
    fn schemes_may_be_left_out() {
        assert_eq!(with_scheme("hf.co/a/b").unwrap(), "https://hf.co/a/b");
        assert_eq!(with_scheme("a/b"), None);
    }
}
