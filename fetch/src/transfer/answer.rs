//! What the answer to a request for a range must be: the bytes asked for, as they are, of the same file.

use std::ops::Range;

use reqwest::header::{self, HeaderMap};
use reqwest::{Response, StatusCode};

use super::remote::RemoteFile;
use crate::hub::Failure;

/// The range of bytes of the file that an answer says it holds.
pub(super) fn sent_range(response: &Response, size: u64) -> Result<Range<u64>, Failure> {
    let length: Option<u64> =
        response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let sent = if response.status() == StatusCode::PARTIAL_CONTENT {
        content_range(response.headers(), size)?
    } else {
        0..size
    };
    match length {
        Some(length) if length != sent.end - sent.start => Err(Failure::transient(format_args!(
            "expected {} bytes, the server announces {length}",
            sent.end - sent.start
        ))),
        _ => Ok(sent),
    }
}

/// `Content-Range: bytes FIRST-LAST/SIZE`; the size must be the one we know, or `*`.
fn content_range(headers: &HeaderMap, size: u64) -> Result<Range<u64>, Failure> {
    let text = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let parse = || {
        let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let total_fits = total == "*" || total.parse() == Ok(size);
        (total_fits && first <= last && last < size).then(|| first..last + 1)
    };
    parse().ok_or_else(|| {
        Failure::transient(format_args!(
            "expected part of {size} bytes, the server sends Content-Range {text:?}"
        ))
    })
}

/// Fails where the content is compressed: the bytes were asked for as they are.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => Ok(()),
        Some(other) => Err(Failure::transient(format_args!(
            "the server sends the content encoded as {:?}, which was not asked for",
            String::from_utf8_lossy(other)
        ))),
    }
}

/// Fails where a file that is known by its etag has another one now.
pub(super) fn check_etag(headers: &HeaderMap, file: &RemoteFile) -> Result<(), Failure> {
    let found = headers.get(header::ETAG).and_then(|value| value.to_str().ok());
    match (&file.etag, found) {
        (Some(expected), Some(found)) if expected != found => Err(Failure::Fatal(
            common::error!("{} changed on the server while it was being downloaded", file.name)
                .hint("run the same command again"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_must_lie_inside_the_file() {
        let parse = |text: &str| {
            let headers = HeaderMap::from_iter([(header::CONTENT_RANGE, text.parse().unwrap())]);
            content_range(&headers, 100).ok()
        };
        assert_eq!(parse("bytes 0-99/100"), Some(0..100));
        assert_eq!(parse("bytes 10-19/*"), Some(10..20));
        for text in [
            "",
            "bytes 0-100/100",
            "bytes 5-4/100",
            "bytes 0-9/101",
            "bytes */100",
            "0-9/100",
            "bytes -1-5/100",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
