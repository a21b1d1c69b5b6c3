//! The settings of a run, checked: from the command line and the environment.

use std::path::PathBuf;
use std::time::Duration;

use common::cli::keep_secret;
use common::{Context, Error, Result, hub_cache};
use reqwest::Url;

use crate::cli::Arguments;
use crate::hub::{Token, percent_decode};
use crate::select::globs::Selection;
use crate::select::source::DownloadSource;

/// The settings of a run. Nothing in them depends on clap.
pub(crate) struct Config {
    /// What to download.
    pub source: DownloadSource,
    /// Branch, tag or commit of a repository.
    pub revision: String,
    /// The address of the hub.
    pub endpoint: Url,
    /// The token for that hub, or the user and password of an address, where there are any.
    pub token: Option<Token>,
    /// The environment variable that forbids requests, where one does.
    pub offline: Option<&'static str>,
    /// Which files of a repository.
    pub selection: Selection,
    /// Where the files go.
    pub destination: Destination,
    /// Whether to say what would be fetched, and fetch nothing.
    pub is_dry_run: bool,
    /// Whether to replace files that are there and differ.
    pub force: bool,
    /// How to behave on the network.
    pub network: Network,
}

/// Where the files go.
pub(crate) enum Destination {
    /// The directory (of a repository) or file (of a URL) to make.
    Path(PathBuf),
    /// The hub's own cache, which is at this path.
    Cache(PathBuf),
}

/// How to behave on the network.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    /// The number of connections, where the user fixed it.
    pub connections: Option<usize>,
    /// The longest silence after which a connection is given up.
    pub timeout: Duration,
    /// The number of failures in a row, without progress, that ends the run.
    pub retries: u32,
    /// The most bytes a second of all connections together, where the user limits them.
    pub max_rate: Option<u64>,
}

impl Config {
    /// Checks the arguments and the environment.
    pub(crate) fn new(arguments: Arguments) -> Result<Self> {
        keep_secrets_of_proxies();
        let mut endpoint = parse_endpoint(arguments.endpoint)?;
        let for_endpoint = Token::from_address(&mut endpoint)?;
        let (text, for_source) = without_password(arguments.source.unwrap_or_default())?;
        let mut source = DownloadSource::parse(&text, arguments.repo_type, &endpoint)?;
        let (mut revision, mut include) = (arguments.revision, arguments.include);
        if let DownloadSource::Repository { revision: of_page, folder, .. } = &mut source {
            revision = revision.or(of_page.take());
            include.extend(folder.take().map(|folder| globset::escape(&folder) + "/*"));
        }
        let token = match for_source.or(for_endpoint) {
            Some(token) => Some(token),
            None => Token::from_environment(&endpoint)?,
        };
        let revision = revision.unwrap_or_else(|| "main".into());
        let destination = match arguments.common.output {
            _ if arguments.cache => Destination::Cache(cache_root()?),
            Some(path) => Destination::Path(path),
            None => Destination::Path(PathBuf::from(source.default_name()?)),
        };
        if !(0.1..=3600.0).contains(&arguments.timeout) {
            return Err(Error::usage(format!(
                "--timeout {}: expected 0.1 to 3600 seconds",
                arguments.timeout
            )));
        }
        if crate::select::names::check(&revision).is_err() || revision.contains("..") {
            return Err(Error::usage(format!("{revision:?} is not a revision"))
                .hint("--revision takes a branch, a tag or a commit"));
        }
        Ok(Self {
            source,
            revision,
            token,
            offline: offline(),
            endpoint,
            selection: Selection::new(&include, &arguments.exclude)?,
            destination,
            is_dry_run: arguments.dry_run,
            force: arguments.common.force,
            network: Network {
                connections: arguments.connections.map(usize::from),
                timeout: Duration::from_secs_f64(arguments.timeout),
                retries: arguments.retries,
                max_rate: arguments.max_rate.map(|rate| rate.0),
            },
        })
    }
}

/// Splits what the user asks for into an address without user and password, and these.
fn without_password(text: String) -> Result<(String, Option<Token>)> {
    let Ok(mut url) = Url::parse(&text) else { return Ok((text, None)) };
    match Token::from_address(&mut url)? {
        None => Ok((text, None)),
        token => Ok((url.into(), token)),
    }
}

/// The directory of the hub's cache; an error where there is no home directory.
fn cache_root() -> Result<PathBuf> {
    hub_cache::root().ok_or_else(|| Error::usage("--cache: there is no home directory").hint("set HF_HOME"))
}

/// The environment variable that forbids requests, where one is set that the hub's own tools obey.
fn offline() -> Option<&'static str> {
    let is_true = |name: &&str| {
        let value = std::env::var(name).unwrap_or_default();
        matches!(value.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
    };
    ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(is_true)
}

/// Keeps the passwords of proxies secret: an error about a proxy may name its address.
fn keep_secrets_of_proxies() {
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        let url = std::env::var(name).ok().and_then(|value| Url::parse(&value).ok());
        if let Some(password) = url.as_ref().and_then(Url::password) {
            keep_secret(password);
            keep_secret(&percent_decode(password));
        }
    }
}

/// The address of the hub: as given, else `HF_ENDPOINT`, else the public hub.
fn parse_endpoint(given: Option<String>) -> Result<Url> {
    let variable = || std::env::var("HF_ENDPOINT").ok().filter(|value| !value.trim().is_empty());
    let text = given.or_else(variable).unwrap_or_else(|| "https://huggingface.co".into());
    let hint = "an endpoint is a URL such as https://huggingface.co";
    // What cannot be read may hold a password in any place.
    let shown = if text.contains('@') { "***".into() } else { format!("{text:?}") };
    let url = Url::parse(text.trim_end_matches('/'))
        .map_err(|error| Error::usage(format!("--endpoint {shown}: {error}")))
        .hint(hint)?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Error::usage(format!("--endpoint {shown} is not an http or https address")).hint(hint));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Error::usage(format!("--endpoint {shown} has a query or a fragment")).hint(hint));
    }
    Ok(url)
}
