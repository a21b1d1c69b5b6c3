//! The options of the server.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;

use clap::Args;
use common::{Context, Error, Result, cli};

/// The environment variable that holds the API key where `--api-key` is not given.
const API_KEY: &str = "QLORA_API_KEY";

/// The options that make `chat` a server.
#[derive(Args, Debug)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServeArguments {
    /// Answer OpenAI's API, and show a page to talk on, at this address; port 0 takes a free port
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["json", "compare", "output"])]
    pub serve: Option<String>,

    /// An adapter of the model, which clients choose by this name; may be given several times
    #[arg(long = "adapter", value_name = "NAME=DIR", requires = "serve", value_parser = NamedAdapter::parse)]
    pub adapters: Vec<NamedAdapter>,

    /// The key that clients must send, in place of QLORA_API_KEY; needed where other machines can connect
    #[arg(long, value_name = "KEY", requires = "serve")]
    api_key: Option<String>,

    /// Most answers that are written at a time
    #[arg(long, value_name = "N", default_value_t = 32, requires = "serve",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub max_sessions: u16,

    /// Most answers that wait for others to end; more are refused with status 429
    #[arg(long, value_name = "N", default_value_t = 64, requires = "serve")]
    pub max_waiting: u16,
}

/// An adapter and the name that clients choose it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedAdapter {
    pub name: String,
    pub directory: PathBuf,
}

impl NamedAdapter {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, directory)) if !name.is_empty() && !directory.is_empty() => {
                Ok(Self { name: name.to_owned(), directory: directory.into() })
            }
            _ => Err("a name and a directory expected, as in tuned=out".to_owned()),
        }
    }
}

impl ServeArguments {
    /// Returns the API key that clients must send, which no message shows from now on.
    pub(crate) fn key(&self) -> Option<String> {
        let key = self.api_key.clone().or_else(|| std::env::var(API_KEY).ok());
        let key = key.filter(|key| !key.is_empty());
        key.iter().for_each(|key| cli::keep_secret(key));
        key
    }
}

/// Listens at `address`. Without an API key only this machine may connect.
pub(crate) fn listen(address: &str, has_key: bool) -> Result<TcpListener> {
    let addresses: Vec<SocketAddr> = match address.to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(problem) => {
            return Err(Error::usage(format!("--serve {address}: a host and a port expected: {problem}"))
                .hint("for example --serve 127.0.0.1:8000"));
        }
    };
    if let Some(open) = addresses.iter().find(|address| !has_key && !address.ip().is_loopback()) {
        return Err(Error::usage(format!(
            "--serve {address}: other machines can reach {}, so an API key is needed",
            open.ip()
        ))
        .hint(format!("set {API_KEY} to a key that is hard to guess, or serve at 127.0.0.1")));
    }
    TcpListener::bind(&addresses[..])
        .with_context(|| format!("cannot listen at {address}"))
        .hint("choose another port, or 0 for a free one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_has_a_name_and_a_directory() {
        let tuned = NamedAdapter { name: "tuned".into(), directory: "out/a=b".into() };
        assert_eq!(NamedAdapter::parse("tuned=out/a=b"), Ok(tuned));
        for wrong in ["out", "=out", "tuned="] {
            assert!(NamedAdapter::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_machines_need_a_key() {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let error = listen(address, false).unwrap_err().to_string();
            assert!(error.contains("so an API key is needed"), "{error}");
        }
        assert!(listen("127.0.0.1:0", false).is_ok() && listen("0.0.0.0:0", true).is_ok());
        let error = listen("8000", false).unwrap_err().to_string();
        assert!(error.contains("--serve 8000: a host and a port expected"), "{error}");
    }
}
