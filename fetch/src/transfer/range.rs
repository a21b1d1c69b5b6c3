//! One range over one connection: from the request to chunks on disk.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use common::{Result, error};
use reqwest::{Method, Response, StatusCode};

use super::answer::{check_encoding, check_etag, sent_range};
use super::leftovers::Leftovers;
use super::rate::RateLimit;
use super::remote::RemoteFile;
use super::request::RangeRequest;
use super::schedule::{Claim, Schedule};
use crate::disk::partial::{CHUNK, Writer};
use crate::hub::{Body, Connection, Failure, Request, Token, refuse_page};

/// How a range ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All chunks of the range have been written, by this connection or another.
    Done,
    /// The server does not know ranges; the file will be asked for in one piece.
    NoRanges,
}

/// What fetching a range needs, apart from a connection.
pub(super) struct RangeFetcher<'a> {
    /// Which connection fetches what.
    pub schedule: &'a Schedule,
    /// The token, for the hub only.
    pub token: Option<&'a Token>,
    /// `--max-rate`.
    pub rate: &'a RateLimit,
    /// Beginnings of chunks that broken connections have left.
    pub leftovers: &'a Leftovers,
}

/// A chunk that is arriving: its index and the bytes that are there. A connection keeps one buffer,
/// because the pieces of a body would each keep a whole read buffer alive.
#[derive(Debug, Default)]
pub(super) struct ArrivingChunk {
    index: usize,
    bytes: Vec<u8>,
}

/// The answer to a request for a range, before its body is read.
struct RangeAnswer {
    response: Response,
    /// The range that was asked for; the whole file where the server ignores ranges.
    request: RangeRequest,
    /// The bytes of the file that the body holds.
    sent: Range<u64>,
    /// The bytes of the file that were asked for.
    wanted: Range<u64>,
}

impl ArrivingChunk {
    fn begin(&mut self, index: usize) {
        self.index = index;
        self.bytes.clear();
    }

    /// Writes the chunk on a thread that may wait for the disk: the workers share few threads, and a full
    /// page cache would stop all of them. A worker that has claimed a chunk is never cancelled before it
    /// has written it, because only another one that has written the same chunk cancels it.
    async fn write(&mut self, writer: Arc<Writer>) -> Result<()> {
        let (index, bytes) = (self.index, std::mem::take(&mut self.bytes));
        let write = move || (writer.write_chunk(index, &bytes), bytes);
        let written = tokio::task::spawn_blocking(write).await.map_err(|failed| error!(Bug, "{failed}"))?;
        self.bytes = written.1;
        written.0
    }

    /// Takes from `piece`, whose first byte is at `position` of a file of `size` bytes, what belongs to one
    /// chunk. Returns the position after it, and whether the chunk is whole.
    fn take(&mut self, piece: &mut Bytes, position: u64, size: u64) -> (u64, bool) {
        self.index = (position / CHUNK) as usize;
        let end = ((self.index as u64 + 1) * CHUNK).min(size);
        let part = piece.split_to(piece.len().min((end - position) as usize));
        self.bytes.extend_from_slice(&part);
        let position = position + part.len() as u64;
        (position, position == end)
    }
}

impl RangeFetcher<'_> {
    /// Fetches the range of `request`. `on_chunk` is called after each chunk that has been written. The
    /// beginning of a chunk that a broken connection leaves is kept for the next try.
    pub(super) async fn fetch(
        &self,
        connection: &Connection,
        file: &RemoteFile,
        request: &RangeRequest,
        chunk: &mut ArrivingChunk,
        on_chunk: impl Fn(),
    ) -> Result<End, Failure> {
        chunk.begin(request.chunks.start);
        if !request.is_whole {
            chunk.bytes.extend(self.leftovers.take(request.file, chunk.index));
            request.begin_with(chunk.bytes.len() as u64);
        }
        let outcome = match self.open(connection, file, request, chunk).await {
            Ok(Some(answer)) => self.receive(answer, connection, file, chunk, on_chunk).await,
            Ok(None) => Ok(End::NoRanges),
            Err(failure) => Err(failure),
        };
        if outcome.is_err() && !chunk.bytes.is_empty() {
            self.leftovers.keep(request.file, chunk.index, std::mem::take(&mut chunk.bytes));
        }
        outcome
    }

    /// Asks for the bytes that are missing of the range and checks that they are what the answer holds;
    /// `None` where the server ignores ranges and another connection fetches the whole file.
    async fn open(
        &self,
        connection: &Connection,
        file: &RemoteFile,
        request: &RangeRequest,
        chunk: &mut ArrivingChunk,
    ) -> Result<Option<RangeAnswer>, Failure> {
        let size = file.partial.size;
        let first = request.chunks.start as u64 * CHUNK + chunk.bytes.len() as u64;
        let mut wanted = first..(request.chunks.end as u64 * CHUNK).min(size);
        let is_all = wanted == (0..size);
        let range = (!is_all && !request.is_whole).then(|| wanted.clone());
        let response = self.ask(connection, file, range).await?;
        check_encoding(response.headers())?;
        refuse_page(response.headers(), response.url(), &file.name)?;
        check_etag(response.headers(), file)?;
        let sent = sent_range(&response, size)?;
        let mut request = request.clone();
        if response.status() == StatusCode::OK && !is_all && !request.is_whole {
            match self.schedule.ranges_are_ignored(&request) {
                Some(whole) => request = whole,
                None => return Ok(None),
            }
            wanted = 0..size;
            chunk.begin(0);
        }
        if sent.start != wanted.start || sent.end > wanted.end {
            return Err(Failure::transient(format_args!(
                "asked for bytes {} to {}, the server sends {} to {}",
                wanted.start, wanted.end, sent.start, sent.end
            )));
        }
        Ok(Some(RangeAnswer { response, request, sent, wanted }))
    }

    /// Reads the body of an answer and writes its chunks.
    async fn receive(
        &self,
        answer: RangeAnswer,
        connection: &Connection,
        file: &RemoteFile,
        chunk: &mut ArrivingChunk,
        on_chunk: impl Fn(),
    ) -> Result<End, Failure> {
        let RangeAnswer { response, request, sent, wanted } = answer;
        let writer = Arc::new(file.partial.open()?);
        let mut position = sent.start;
        let mut body = Body::new(response, connection.timeout());
        while let Some(mut piece) = body.next().await? {
            self.rate.take(piece.len()).await;
            request.receive(piece.len() as u64);
            while !piece.is_empty() {
                if position >= sent.end {
                    return Err(Failure::transient(format_args!(
                        "the server sends more than the {} bytes it promised",
                        sent.end - sent.start
                    )));
                }
                let is_whole;
                (position, is_whole) = chunk.take(&mut piece, position, file.partial.size);
                if !is_whole {
                    continue;
                }
                if !self.store(chunk, &request, &writer, position == sent.end, &on_chunk).await? {
                    return Ok(End::Done);
                }
                chunk.bytes.clear();
                // A connection that always has more would keep the others from their turn.
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

    /// Writes a chunk that has arrived whole, if no other connection has. Returns whether to read on: to
    /// the end of a body, so that the connection can be used again, or to the next chunk that is wanted.
    async fn store(
        &self,
        chunk: &mut ArrivingChunk,
        request: &RangeRequest,
        writer: &Arc<Writer>,
        is_last: bool,
        on_chunk: impl Fn(),
    ) -> Result<bool, Failure> {
        match self.schedule.claim(request, chunk.index) {
            Claim::Write => {
                if let Err(error) = chunk.write(writer.clone()).await {
                    self.schedule.not_written(request, chunk.index);
                    return Err(Failure::Fatal(error));
                }
                self.leftovers.forget(request.file, chunk.index);
                let is_more_wanted = self.schedule.written(request, chunk.index);
                on_chunk();
                Ok(is_more_wanted || is_last)
            }
            Claim::Skip => Ok(true),
            Claim::Stop => Ok(false),
        }
    }

    /// Asks the address that sent the bytes last time, and the hub again where that address has expired.
    async fn ask(
        &self,
        connection: &Connection,
        file: &RemoteFile,
        range: Option<Range<u64>>,
    ) -> Result<Response, Failure> {
        let request = |url| Request { method: Method::GET, url, range: range.clone(), token: self.token };
        let resolved = file.resolved();
        if let Some(url) = &resolved {
            match connection.send(request(url)).await {
                Err(Failure::Refused { .. }) => file.set_resolved(None),
                answer => return answer.map(|answer| answer.response),
            }
        }
        let answer = connection.send(request(&file.url)).await?;
        if answer.url != file.url {
            file.set_resolved(Some(answer.url));
        }
        Ok(answer.response)
    }
}
