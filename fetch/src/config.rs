//! What a run does, once the command line and the environment have been understood.

use std::path::PathBuf;
use std::time::Duration;

use common::{Context, Error, Result};
use reqwest::Url;

use crate::cache;
use crate::cli::Arguments;
use crate::hub::Token;
use crate::select::Selection;
use crate::source::Source;

/// A validated run. Nothing in it depends on clap.
pub struct Config {
    /// What to download.
    pub source: Source,
    /// Branch, tag or commit of a repository.
    pub revision: String,
    /// The hub.
    pub endpoint: Url,
    /// The token for that hub, where there is one.
    pub token: Option<Token>,
    /// Which files of a repository.
    pub selection: Selection,
    /// Where it goes.
    pub destination: Destination,
    /// Only say what would be fetched.
    pub is_dry_run: bool,
    /// Replace files that are there and differ.
    pub force: bool,
    /// How to behave on the network.
    pub network: Network,
}

/// Where the files go.
pub enum Destination {
    /// The directory (of a repository) or file (of a URL) to make.
    Path(PathBuf),
    /// The hub's own cache, which is at this path.
    Cache(PathBuf),
}

/// How to behave on the network.
#[derive(Debug, Clone)]
pub struct Network {
    /// Connections, where the user fixed their number.
    pub connections: Option<usize>,
    /// A connection silent for so long is given up.
    pub timeout: Duration,
    /// Failures in a row, with nothing gained, that end the run.
    pub retries: u32,
    /// Bytes a second of all connections together, where limited.
    pub max_rate: Option<u64>,
}

impl Config {
    /// Understands the arguments.
    pub fn new(arguments: Arguments) -> Result<Self> {
        let endpoint = parse_endpoint(arguments.endpoint)?;
        let text = arguments.source.unwrap_or_default();
        let source = Source::parse(&text, arguments.repo_type, &endpoint)?;
        let destination = match arguments.common.output {
            _ if arguments.cache => Destination::Cache(cache::root()?),
            Some(path) => Destination::Path(path),
            None => Destination::Path(PathBuf::from(source.default_name()?)),
        };
        if !(0.1..=3600.0).contains(&arguments.timeout) {
            return Err(Error::usage(format!(
                "--timeout {}: expected 0.1 to 3600 seconds",
                arguments.timeout
            )));
        }
        if arguments.revision.is_empty() || arguments.revision.contains("..") {
            return Err(Error::usage(format!("--revision {:?} is not a revision", arguments.revision)));
        }
        Ok(Self {
            source,
            revision: arguments.revision,
            token: Token::from_environment(&endpoint)?,
            endpoint,
            selection: Selection::new(&arguments.include, &arguments.exclude)?,
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

/// The hub: as given, else `HF_ENDPOINT`, else the public one.
fn parse_endpoint(given: Option<String>) -> Result<Url> {
    let variable = || std::env::var("HF_ENDPOINT").ok().filter(|value| !value.trim().is_empty());
    let text = given.or_else(variable).unwrap_or_else(|| "https://huggingface.co".into());
    let hint = "an endpoint is a URL such as https://huggingface.co";
    let url = Url::parse(text.trim_end_matches('/'))
        .map_err(|error| Error::usage(format!("--endpoint {text:?}: {error}")))
        .hint(hint)?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Error::usage(format!("--endpoint {text:?} is not an http or https address")).hint(hint));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Error::usage(format!("--endpoint {text:?} has a query or a fragment")).hint(hint));
    }
    Ok(url)
}
