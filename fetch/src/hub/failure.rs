//! Why a request failed, and whether another try may help.

use std::time::Duration;

use common::{Error, error};
use reqwest::{StatusCode, Url};

/// Why a request did not give what was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Worth trying again, after `wait` where the server asked for that.
    Transient {
        /// What happened.
        message: String,
        /// `Retry-After`, or the hub's `RateLimit`.
        wait: Option<Duration>,
    },
    /// No connection could be made at all.
    Unreachable(String),
    /// The server answered, and the answer is no.
    Refused {
        /// 4xx or an unexpected status.
        status: StatusCode,
        /// The hub's own code for the reason, such as `GatedRepo`.
        code: Option<String>,
        /// What happened.
        message: String,
    },
    /// Trying again cannot help.
    Fatal(Error),
}

impl Failure {
    /// Names the file that the failure was about.
    pub(crate) fn about(self, name: &str) -> Self {
        match self {
            Self::Transient { message, wait } => {
                Self::Transient { message: format!("{name}: {message}"), wait }
            }
            Self::Unreachable(message) => Self::Unreachable(format!("{name}: {message}")),
            other => other,
        }
    }

    /// The error that ends a download; `explain` knows what a refusal means.
    pub(crate) fn into_error(self, explain: impl FnOnce(Self) -> Error) -> Error {
        match self {
            Self::Transient { message, .. } => {
                error!("{message}").hint("run the same command again to go on where it stopped")
            }
            other => explain(other),
        }
    }

    /// Whether another try may help.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Transient { .. } | Self::Unreachable(_))
    }

    /// How long the server asks to wait before the next try.
    pub(crate) fn wait_asked_for(&self) -> Option<Duration> {
        match self {
            Self::Transient { wait, .. } => *wait,
            _ => None,
        }
    }

    /// A failure worth another try at once.
    pub(crate) fn transient(message: impl std::fmt::Display) -> Self {
        Self::Transient { message: message.to_string(), wait: None }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transient { message, .. } | Self::Unreachable(message) | Self::Refused { message, .. } => {
                f.write_str(message)
            }
            Self::Fatal(error) => error.fmt(f),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

/// The host of an address, with its port where that is not the usual one.
pub(super) fn host(url: &Url) -> String {
    match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_string(),
    }
}

/// The causes of an error: reqwest's own text only says that a request or a body went wrong.
pub(super) fn chain(error: &impl std::error::Error) -> String {
    let mut text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let mut source = error.source().and_then(std::error::Error::source);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
