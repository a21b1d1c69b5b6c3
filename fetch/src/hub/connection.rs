//! One connection to whichever servers hold the bytes: requests, redirects, and what an answer means.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use common::cli::verbose;
use common::{Error, error};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::ConfigVerifierExt;

use super::body::Body;
use super::{Token, http_date};

/// Longest chain of redirects that is followed.
const MAX_REDIRECTS: usize = 8;
/// Time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time to read the rest of an answer that nobody needs.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes a server may send ahead on one HTTP/2 stream; they wait in our memory.
const HTTP2_WINDOW: u32 = 512 << 10;
/// Longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// Why a request did not give what was asked for.
#[derive(Debug)]
pub enum Failure {
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
    /// Says which file it was about.
    pub fn about(self, name: &str) -> Self {
        match self {
            Self::Transient { message, wait } => {
                Self::Transient { message: format!("{name}: {message}"), wait }
            }
            Self::Unreachable(message) => Self::Unreachable(format!("{name}: {message}")),
            other => other,
        }
    }

    /// The error that ends a download; `explain` knows what a refusal means.
    pub fn into_error(self, explain: impl FnOnce(Self) -> Error) -> Error {
        match self {
            Self::Transient { message, .. } => {
                error!("{message}").hint("run the same command again to go on where it stopped")
            }
            other => explain(other),
        }
    }

    /// A failure worth another try at once.
    pub fn transient(message: impl std::fmt::Display) -> Self {
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

/// What to ask for.
pub struct Request<'a> {
    /// GET or HEAD.
    pub method: Method,
    /// The first address; redirects lead on from it.
    pub url: &'a Url,
    /// Bytes wanted, where not all of them.
    pub range: Option<Range<u64>>,
    /// The token, for the server it belongs to.
    pub token: Option<&'a Token>,
}

/// An answer, and where it came from.
pub struct Answer {
    /// Status, headers and the body to come.
    pub response: Response,
    /// The address that answered, after redirects.
    pub url: Url,
    /// Headers of the first answer: the hub describes a file before it redirects to its bytes.
    pub first_headers: HeaderMap,
}

/// Makes connections that trust what the system trusts; its certificates are read once.
#[derive(Clone)]
pub struct Connector {
    tls: ClientConfig,
    timeout: Duration,
    quickest: Arc<AtomicU64>,
}

/// One connection at a time, kept alive between requests; HTTP/1.1, or HTTP/2 where TLS offers it.
///
/// Every connection has its own client, so that parallel requests never share a TCP stream and a
/// stalled stream dies with the client it belongs to.
pub struct Connection {
    client: reqwest::Client,
    timeout: Duration,
    /// Microseconds.
    quickest: Arc<AtomicU64>,
}

impl Connector {
    /// `timeout` is the longest silence that connections allow.
    pub fn new(timeout: Duration) -> common::Result<Self> {
        // The first call decides, and there is no other.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut tls = ClientConfig::with_platform_verifier().or_else(|error| {
            // Plain http needs none.
            verbose(format_args!("{error}; https will trust nobody"));
            let nobody = RootCertStore::empty();
            Ok::<_, Error>(ClientConfig::builder().with_root_certificates(nobody).with_no_client_auth())
        })?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { tls, timeout, quickest: Arc::new(AtomicU64::new(u64::MAX)) })
    }

    /// The shortest time in which a server has begun to answer; none before the first answer.
    pub fn quickest_answer(&self) -> Option<Duration> {
        Some(self.quickest.load(Ordering::Relaxed)).filter(|time| *time < u64::MAX).map(Duration::from_micros)
    }

    /// A connection that opens with its first request.
    pub fn connect(&self) -> common::Result<Connection> {
        let timeout = self.timeout;
        let client = reqwest::Client::builder()
            .user_agent(concat!("qlora-tools-fetch/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(self.tls.clone())
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .http2_initial_stream_window_size(HTTP2_WINDOW)
            .http2_initial_connection_window_size(HTTP2_WINDOW)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| error!(System, "cannot set up HTTP: {}", chain(&error)))?;
        Ok(Connection { client, timeout, quickest: self.quickest.clone() })
    }
}

impl Connection {
    /// Asks, follows redirects, and returns an answer with status 200 or 206.
    pub async fn send(&self, request: Request<'_>) -> Result<Answer, Failure> {
        let mut url = request.url.clone();
        let mut first_headers = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(&request, &url).await?;
            let headers = first_headers.get_or_insert_with(|| response.headers().clone());
            let status = response.status();
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                check_status(&response, &url)?;
                return Ok(Answer { first_headers: std::mem::take(headers), response, url });
            }
            let target = redirect_target(&response, &url)?;
            // The rest of the answer is read so that the connection can be used again, if it comes soon.
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain(response, self.timeout)).await;
            url = target;
        }
        Err(Failure::Fatal(common::error!(Network, "{}: more than {MAX_REDIRECTS} redirects", request.url)))
    }

    async fn send_once(&self, request: &Request<'_>, url: &Url) -> Result<Response, Failure> {
        let mut builder = self
            .client
            .request(request.method.clone(), url.clone())
            .header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(authorization) = request.token.and_then(|token| token.header_for(url)) {
            builder = builder.header(header::AUTHORIZATION, authorization);
        }
        if let Some(range) = &request.range {
            builder = builder.header(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        let asked = Instant::now();
        match tokio::time::timeout(self.timeout, builder.send()).await {
            Ok(Ok(response)) => {
                let time = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.quickest.fetch_min(time, Ordering::Relaxed);
                Ok(response)
            }
            Ok(Err(error)) if chain(&error).contains("certificate") => Err(Failure::Fatal(
                common::error!("cannot trust {}: {}", host(url), chain(&error))
                    .hint("install the system's ca-certificates package, or set SSL_CERT_FILE to a private authority's"),
            )),
            Ok(Err(error)) if error.is_connect() => {
                Err(Failure::Unreachable(format!("cannot reach {}: {}", host(url), chain(&error))))
            }
            Ok(Err(error)) => Err(Failure::transient(format_args!("{}: {}", host(url), chain(&error)))),
            Err(_) => Err(Failure::transient(format_args!(
                "{}: no answer for {} s",
                host(url),
                self.timeout.as_secs_f32()
            ))),
        }
    }

    /// The longest silence allowed.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// Reads a small rest of a body, which frees the connection for the next request.
async fn drain(response: Response, timeout: Duration) {
    let mut left: usize = 64 << 10;
    let mut body = Body::new(response, timeout);
    while let Ok(Some(piece)) = body.next().await {
        let Some(rest) = left.checked_sub(piece.len()) else { return };
        left = rest;
    }
}

fn redirect_target(response: &Response, url: &Url) -> Result<Url, Failure> {
    let location =
        response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).ok_or_else(|| {
            common::error!(Network, "{url}: status {} without a location", response.status())
        })?;
    let target = url
        .join(location)
        .map_err(|error| common::error!(Network, "{url}: redirected to an address that is none: {error}"))?;
    if !matches!(target.scheme(), "http" | "https") {
        return Err(common::error!(
            Network,
            "{url}: redirected to {}, which is not http or https",
            shown(&target)
        )
        .into());
    }
    if url.scheme() == "https" && target.scheme() == "http" {
        return Err(common::error!(
            Network,
            "{url}: redirected from https to plain http ({})",
            shown(&target)
        )
        .into());
    }
    Ok(target)
}

/// An address without its query, which may be a signature that opens the file to anybody.
fn shown(url: &Url) -> Url {
    let mut shown = url.clone();
    shown.set_query(None);
    shown
}

fn check_status(response: &Response, url: &Url) -> Result<(), Failure> {
    let status = response.status();
    if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Ok(());
    }
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let reason = header("x-error-message").map(|text| format!(": {text}")).unwrap_or_default();
    let message = format!("{}{}: status {status}{reason}", host(url), url.path());
    match status.as_u16() {
        // A range that is refused has been answered by a confused server; the next may know better.
        416 => Err(Failure::transient(message)),
        408 | 425 | 429 | 500 | 502 | 503 | 504 => {
            let wait = wait_asked_for(response.headers());
            if let Some(wait) = wait.filter(|wait| *wait > LONGEST_WAIT) {
                return Err(common::error!(
                    Network,
                    "{message}: the server asks to wait {} minutes",
                    wait.as_secs() / 60
                )
                .into());
            }
            Err(Failure::Transient { message, wait })
        }
        _ => Err(Failure::Refused { status, code: header("x-error-code").map(str::to_owned), message }),
    }
}

/// `Retry-After` in seconds or as a date, or the `t=` of the hub's `RateLimit`.
fn wait_asked_for(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(value) = text("retry-after") {
        if let Ok(seconds) = value.trim().parse::<u32>() {
            return Some(Duration::from_secs(seconds.into()));
        }
        return http_date::parse(value).map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
    }
    let limit = text("ratelimit")?;
    let seconds = limit.split(';').find_map(|part| part.trim().strip_prefix("t="))?;
    Some(Duration::from_secs(seconds.parse::<u32>().ok()?.into()))
}

/// Fails where a server sends a page for people, such as that of its login, in the place of the file
/// `name`.
pub fn refuse_page(headers: &HeaderMap, url: &Url, name: &str) -> Result<(), Failure> {
    let extension = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    if !is_page(headers) || matches!(extension.as_str(), "html" | "htm" | "xhtml") {
        return Ok(());
    }
    Err(Failure::Fatal(
        error!("{name}: {} sends a web page (text/html) instead of the file", host(url)).hint(
            "open the address in a browser: the server may want a login (HF_TOKEN) or have moved the file",
        ),
    ))
}

/// Whether an answer is a web page.
pub fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(kind.as_str(), "text/html" | "application/xhtml+xml")
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn waits_are_read_as_servers_write_them() {
        let seconds = |name, value: &str| wait_asked_for(&headers(name, value)).map(|wait| wait.as_secs());
        assert_eq!(seconds("retry-after", "7"), Some(7));
        assert_eq!(seconds("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), Some(0));
        assert_eq!(seconds("ratelimit", "\"api\";r=0;t=55"), Some(55));
        assert_eq!(seconds("retry-after", "soon"), None);
        assert_eq!(seconds("x-other", "7"), None);
    }
}
