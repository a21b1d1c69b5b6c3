//! What can go wrong with the content of a file, and sending it.

use std::borrow::Cow;
use std::io::Write;
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::answers::head;
use super::{COMMIT, HubFile, Seen, Shared};

/// What goes wrong with one answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Nothing.
    None,
    /// This status, with these headers and no body to speak of.
    Status(u16, Vec<(String, String)>),
    /// The connection is reset after so many bytes of the body.
    Reset(usize),
    /// The connection is closed after so many bytes of the body.
    Truncate(usize),
    /// Nothing comes after so many bytes of the body, for so long.
    Stall(usize, Duration),
    /// The body comes with so many bytes a second.
    Slow(usize),
    /// The byte at this place of the answer is changed.
    WrongByte(usize),
    /// `Content-Range` names bytes that were not asked for.
    WrongContentRange,
    /// The whole file is sent, whatever was asked for.
    IgnoreRange,
    /// `Content-Length` is this much longer than the truth.
    LyingLength(usize),
    /// No length is announced and the body does not end.
    Endless,
    /// No length is announced: the whole file comes, and the connection is closed behind it.
    NoLength,
    /// No length is announced: the whole file comes in HTTP's chunked encoding, or only so many
    /// bytes of it.
    Chunked(Option<usize>),
    /// The body claims to be gzip.
    Gzip,
    /// A redirect to this address.
    Redirect(String),
    /// A page for people, with status 200.
    Page,
}

/// Sends the content of a file, or the range of it that is asked for, with a fault. Returns whether the
/// connection can be used again.
pub(super) fn send_file(
    shared: &Shared,
    request: &Seen,
    fault: &Fault,
    file: &HubFile,
    etag: &str,
    stream: &TcpStream,
) -> std::io::Result<bool> {
    let size = file.content.len();
    let asked = request.range.as_deref().and_then(|range| parse_range(range, size));
    let mut headers = vec![("ETag", etag.to_string()), ("X-Repo-Commit", COMMIT.to_string())];
    let (status, range) = match asked {
        Some(range) if !matches!(fault, Fault::IgnoreRange | Fault::NoLength | Fault::Chunked(_)) => {
            let shift = if *fault == Fault::WrongContentRange { 1 } else { 0 };
            let text = format!("bytes {}-{}/{size}", range.start + shift, range.end - 1 + shift);
            headers.push(("Content-Range", text));
            (206, range)
        }
        _ => (200, 0..size),
    };
    let mut body = Cow::from(&file.content[range]);
    let mut length = Some(body.len());
    match fault {
        Fault::WrongByte(at) if !body.is_empty() => {
            let at = at % body.len();
            body.to_mut()[at] ^= 0x55;
        }
        Fault::LyingLength(more) => length = Some(body.len() + more),
        Fault::Endless | Fault::NoLength => length = None,
        Fault::Chunked(_) => {
            length = None;
            headers.push(("Transfer-Encoding", "chunked".into()));
        }
        Fault::Gzip => headers.push(("Content-Encoding", "gzip".into())),
        _ => {}
    }
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let keeps = head(stream, status, &headers, length)?;
    if request.method == "HEAD" {
        return Ok(keeps);
    }
    match fault {
        Fault::Reset(after) => {
            send(shared, stream, &body[..body.len().min(*after)])?;
            socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
            Ok(false)
        }
        Fault::Truncate(after) => {
            send(shared, stream, &body[..body.len().min(*after)])?;
            Ok(false)
        }
        Fault::Stall(after, time) => {
            let (before, rest) = body.split_at(body.len().min(*after));
            send(shared, stream, before)?;
            std::thread::sleep(*time);
            send(shared, stream, rest)?;
            Ok(keeps)
        }
        Fault::Slow(rate) => {
            send_at(shared, stream, &body, Some(*rate))?;
            Ok(keeps)
        }
        Fault::LyingLength(_) => {
            send(shared, stream, &body)?;
            Ok(false)
        }
        Fault::Endless => loop {
            send(shared, stream, &body)?;
        },
        Fault::Chunked(cut) => {
            send(shared, stream, format!("{:x}\r\n", body.len()).as_bytes())?;
            send(shared, stream, &body[..cut.unwrap_or(body.len())])?;
            if cut.is_none() {
                send(shared, stream, b"\r\n0\r\n\r\n")?;
            }
            Ok(false)
        }
        _ => {
            send(shared, stream, &body)?;
            Ok(keeps)
        }
    }
}

/// Sends a body, no faster than the connection is allowed to.
fn send(shared: &Shared, stream: &TcpStream, body: &[u8]) -> std::io::Result<()> {
    send_at(shared, stream, body, shared.behaviour.bytes_per_second)
}

/// Sends a body at a rate of its own.
pub(super) fn send_at(
    shared: &Shared,
    mut stream: &TcpStream,
    body: &[u8],
    bytes_per_second: Option<usize>,
) -> std::io::Result<()> {
    let (begun, mut sent) = (Instant::now(), 0);
    for piece in body.chunks(bytes_per_second.map_or(1 << 20, |rate| (rate / 50).max(1))) {
        stream.write_all(piece)?;
        sent += piece.len();
        shared.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        if let Some(rate) = bytes_per_second {
            // Whatever the write took counts: the rate is that of the whole body.
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    Ok(())
}

fn parse_range(text: &str, size: usize) -> Option<Range<usize>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let end = last.parse::<usize>().map_or(size, |last| last + 1).min(size);
    (first < end).then_some(first..end)
}
