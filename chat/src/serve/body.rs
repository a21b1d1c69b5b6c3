//! The bodies of requests, which are bounded in size and in the time that they take.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt;

use super::openai::Problem;

/// Most bytes of a request.
const MOST_BYTES: usize = 2 << 20;
/// Most bytes that are read of a longer request, so that its client can read why it is refused.
const MOST_DISCARDED: usize = 64 << 20;
/// How long a client may take to send a request.
const MOST_TIME: Duration = Duration::from_secs(30);

/// Reads the body of a request, which must be JSON. Browsers let no page of another origin send that.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Problem> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "the header content-type: application/json expected";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let read = tokio::time::timeout(MOST_TIME, collect(body)).await;
    read.unwrap_or_else(|_| {
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, format!("the body took longer than {MOST_TIME:?}")))
    })
}

async fn collect(body: Body) -> Result<Vec<u8>, Problem> {
    let announced = body.size_hint().lower();
    let mut bytes = Vec::new();
    let mut seen = 0;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let cut =
            |problem| Problem::new(StatusCode::BAD_REQUEST, format!("the body is cut short: {problem}"));
        let chunk = chunk.map_err(cut)?;
        seen += chunk.len();
        if seen.max(announced as usize) <= MOST_BYTES {
            bytes.extend_from_slice(&chunk);
        }
        if seen > MOST_DISCARDED {
            break;
        }
    }
    if seen > MOST_BYTES {
        let message = format!("the request has more than {} MiB", MOST_BYTES >> 20);
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(bytes)
}
