//! What the status and the headers of an answer mean.

use std::time::{Duration, SystemTime};

use chrono::DateTime;
use common::error;
use reqwest::header::{self, HeaderMap};
use reqwest::{Response, StatusCode, Url};

use super::Failure;
use super::failure::host;

/// Longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// Fails where an answer has another status than 200 and 206.
pub(super) fn check_status(response: &Response, url: &Url) -> Result<(), Failure> {
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
        let at = DateTime::parse_from_rfc2822(value.trim()).ok()?;
        return Some(SystemTime::from(at).duration_since(SystemTime::now()).unwrap_or_default());
    }
    let limit = text("ratelimit")?;
    let seconds = limit.split(';').find_map(|part| part.trim().strip_prefix("t="))?;
    Some(Duration::from_secs(seconds.parse::<u32>().ok()?.into()))
}

/// Fails where a server sends a web page, such as its login, in place of the file `name`.
pub(crate) fn refuse_page(headers: &HeaderMap, url: &Url, name: &str) -> Result<(), Failure> {
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
pub(super) fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(kind.as_str(), "text/html" | "application/xhtml+xml")
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

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
        for none in ["soon", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:00:00 GMT"] {
            assert_eq!(seconds("retry-after", none), None, "{none}");
        }
        let hour = chrono::Utc::now() + Duration::from_secs(3600);
        let asked = seconds("retry-after", &hour.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
        assert!(asked.is_some_and(|seconds| (3500..=3600).contains(&seconds)), "{asked:?}");
        assert_eq!(seconds("x-other", "7"), None);
    }
}
