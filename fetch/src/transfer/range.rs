//! One range over one connection: from the request to chunks on disk.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use reqwest::header::{self, HeaderMap};
use reqwest::{Method, StatusCode, Url};

use crate::disk::partial::{CHUNK, PartialFile};
use crate::hub::{Body, Connection, Failure, Request, Token, refuse_page};
use crate::transfer::leftovers::Leftovers;
use crate::transfer::rate::RateLimit;
use crate::transfer::request::Flight;
use crate::transfer::schedule::{Claim, Schedule};

/// A file to bring.
pub struct Remote {
    /// Name for people.
    pub name: String,
    /// The address a user would give.
    pub url: Url,
    /// The address that last sent bytes, where redirects led to another one.
    resolved: Mutex<Option<Url>>,
    /// What every answer must carry, where nothing else tells one content from another.
    pub etag: Option<String>,
    /// Where it grows.
    pub partial: PartialFile,
}

impl Remote {
    /// A file at `url` that grows at `partial`.
    pub fn new(name: String, url: Url, partial: PartialFile) -> Self {
        Self { name, url, resolved: Mutex::new(None), etag: None, partial }
    }

    fn resolved(&self) -> Option<Url> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_resolved(&self, url: Option<Url>) {
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }
}

/// How a transfer ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// All chunks of the range have been written, by this connection or another.
    Done,
    /// The server does not know ranges; the file will be asked for in one piece.
    NoRanges,
}

/// What transfers need besides a connection.
pub struct Transfers<'a> {
    /// Who fetches what.
    pub schedule: &'a Schedule,
    /// For the hub only.
    pub token: Option<&'a Token>,
    /// `--max-rate`.
    pub rate: &'a RateLimit,
    /// Beginnings of chunks that broken connections have left.
    pub leftovers: &'a Leftovers,
}

/// A chunk that is arriving: its index and the bytes that are there. A connection keeps one, because
/// the pieces that come would each keep a whole read buffer alive.
#[derive(Debug, Default)]
pub struct Arriving {
    chunk: usize,
    bytes: Vec<u8>,
}

impl Transfers<'_> {
    /// Brings the range of `flight`. `on_chunk` is called after each chunk that has been written. The
    /// beginning of a chunk that a broken connection leaves is kept for the next try.
    pub async fn carry(
        &self,
        connection: &Connection,
        remote: &Remote,
        flight: &Flight,
        arriving: &mut Arriving,
        on_chunk: impl Fn(),
    ) -> Result<End, Failure> {
        arriving.chunk = flight.chunks.start;
        arriving.bytes.clear();
        if !flight.is_whole {
            arriving.bytes.extend(self.leftovers.take(flight.file, arriving.chunk));
            flight.begin_with(arriving.bytes.len() as u64);
        }
        let outcome = self.carry_rest(connection, remote, flight, arriving, on_chunk).await;
        if outcome.is_err() && !arriving.bytes.is_empty() {
            self.leftovers.keep(flight.file, arriving.chunk, std::mem::take(&mut arriving.bytes));
        }
        outcome
    }

    async fn carry_rest(
        &self,
        connection: &Connection,
        remote: &Remote,
        flight: &Flight,
        arriving: &mut Arriving,
        on_chunk: impl Fn(),
    ) -> Result<End, Failure> {
        let size = remote.partial.size;
        let first = flight.chunks.start as u64 * CHUNK + arriving.bytes.len() as u64;
        let wanted = first..(flight.chunks.end as u64 * CHUNK).min(size);
        let is_all = wanted == (0..size);
        let range = (!is_all && !flight.is_whole).then(|| wanted.clone());
        let answer = self.ask(connection, remote, range).await?;
        check_encoding(answer.headers())?;
        refuse_page(answer.headers(), answer.url(), &remote.name)?;
        check_etag(answer.headers(), remote)?;
        let (body, mut flight) = (sent_range(&answer, size)?, flight.clone());
        let mut wanted = wanted;
        if answer.status() == StatusCode::OK && !is_all && !flight.is_whole {
            match self.schedule.ranges_are_ignored(&flight) {
                Some(whole) => flight = whole,
                None => return Ok(End::NoRanges),
            }
            wanted = 0..size;
            arriving.chunk = 0;
            arriving.bytes.clear();
        }
        if body.start != wanted.start || body.end > wanted.end {
            return Err(Failure::transient(format_args!(
                "asked for bytes {} to {}, the server sends {} to {}",
                wanted.start, wanted.end, body.start, body.end
            )));
        }

        let writer = remote.partial.open()?;
        let mut position = body.start;
        let mut pieces = Body::new(answer, connection.timeout());
        while let Some(mut piece) = pieces.next().await? {
            self.rate.take(piece.len()).await;
            flight.receive(piece.len() as u64);
            while !piece.is_empty() {
                if position >= body.end {
                    return Err(Failure::transient(format_args!(
                        "the server sends more than the {} bytes it promised",
                        body.end - body.start
                    )));
                }
                let index = (position / CHUNK) as usize;
                let chunk_end = ((index as u64 + 1) * CHUNK).min(size);
                let part = piece.split_to(piece.len().min((chunk_end - position) as usize));
                position += part.len() as u64;
                arriving.chunk = index;
                arriving.bytes.extend_from_slice(&part);
                if position < chunk_end {
                    continue;
                }
                match self.schedule.claim(&flight, index) {
                    Claim::Write => {
                        if let Err(error) = writer.write_chunk(index, &arriving.bytes) {
                            self.schedule.not_written(&flight, index);
                            return Err(Failure::Fatal(error));
                        }
                        self.leftovers.forget(flight.file, index);
                        let go_on = self.schedule.written(&flight, index);
                        on_chunk();
                        if !go_on && position < body.end {
                            return Ok(End::Done);
                        }
                    }
                    Claim::Skip => {}
                    Claim::Stop => return Ok(End::Done),
                }
                arriving.bytes.clear();
                // A line that always has more would keep the others from their turn.
                tokio::task::yield_now().await;
            }
        }
        if position < wanted.end {
            return Err(Failure::transient(format_args!(
                "the server sent {} of {} bytes",
                position - wanted.start,
                wanted.end - wanted.start
            )));
        }
        Ok(End::Done)
    }

    /// Asks where the bytes were last time; asks the hub again where that address has expired.
    async fn ask(
        &self,
        connection: &Connection,
        remote: &Remote,
        range: Option<Range<u64>>,
    ) -> Result<reqwest::Response, Failure> {
        let request = |url| Request { method: Method::GET, url, range: range.clone(), token: self.token };
        let resolved = remote.resolved();
        if let Some(url) = &resolved {
            match connection.send(request(url)).await {
                Err(Failure::Refused { .. }) => remote.set_resolved(None),
                answer => return answer.map(|answer| answer.response),
            }
        }
        let answer = connection.send(request(&remote.url)).await?;
        if answer.url != remote.url {
            remote.set_resolved(Some(answer.url));
        }
        Ok(answer.response)
    }
}

/// The bytes that an answer claims to hold.
fn sent_range(response: &reqwest::Response, size: u64) -> Result<Range<u64>, Failure> {
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

/// We ask for the bytes as they are; anything else would not be the file.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => Ok(()),
        Some(other) => Err(Failure::transient(format_args!(
            "the server sends the content encoded as {:?}, which was not asked for",
            String::from_utf8_lossy(other)
        ))),
    }
}

/// A file that is known by its etag must keep it.
fn check_etag(headers: &HeaderMap, remote: &Remote) -> Result<(), Failure> {
    let found = headers.get(header::ETAG).and_then(|value| value.to_str().ok());
    match (&remote.etag, found) {
        (Some(expected), Some(found)) if expected != found => Err(Failure::Fatal(
            common::error!("{} changed on the server while it was being downloaded", remote.name)
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
