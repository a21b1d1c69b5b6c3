//! One connection to the servers that hold the bytes: requests and redirects.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::cli::verbose;
use common::{Error, error};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::ConfigVerifierExt;

use super::answer::check_status;
use super::failure::{chain, host};
use super::{Body, Failure, Token};

/// Longest chain of redirects that is followed.
const MAX_REDIRECTS: usize = 8;
/// Time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time to read the rest of an answer whose body is not needed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes that a server may send ahead on one HTTP/2 stream, and that wait in memory.
const HTTP2_WINDOW: u32 = 512 << 10;

/// What to ask for.
pub(crate) struct Request<'a> {
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
pub(crate) struct Answer {
    /// Status, headers and the body to come.
    pub response: Response,
    /// The address that answered, after redirects.
    pub url: Url,
    /// Headers of the first answer: the hub describes a file before it redirects to its bytes.
    pub first_headers: HeaderMap,
}

/// Makes connections that trust what the system trusts; its certificates are read once.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: ClientConfig,
    timeout: Duration,
    /// The shortest time in which a server has begun to answer, in microseconds.
    quickest: Arc<AtomicU64>,
}

/// One connection at a time, kept alive between requests; HTTP/1.1, or HTTP/2 where TLS offers it.
///
/// Every connection has its own client, so that parallel requests never share a TCP stream and a
/// stalled stream dies with the client it belongs to.
pub(crate) struct Connection {
    client: reqwest::Client,
    timeout: Duration,
    /// The shortest time in which a server has begun to answer, in microseconds.
    quickest: Arc<AtomicU64>,
}

impl Connector {
    /// `timeout` is the longest silence that connections allow.
    pub(crate) fn new(timeout: Duration) -> common::Result<Self> {
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
    pub(crate) fn quickest_answer(&self) -> Option<Duration> {
        Some(self.quickest.load(Ordering::Relaxed)).filter(|time| *time < u64::MAX).map(Duration::from_micros)
    }

    /// A connection that opens with its first request.
    pub(crate) fn connect(&self) -> common::Result<Connection> {
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
    pub(crate) async fn send(&self, request: Request<'_>) -> Result<Answer, Failure> {
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
    pub(crate) fn timeout(&self) -> Duration {
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

/// An address without its query, which may be a signature that lets any reader download the file.
fn shown(url: &Url) -> Url {
    let mut shown = url.clone();
    shown.set_query(None);
    shown
}
