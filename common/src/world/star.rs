//! The connections of a run: every rank has one to rank 0, which stays open until the end.
//!
//! Every exchange is made of two operations: rank 0 gathers a part from every rank, and spreads one part to all. A
//! thread reads each connection, so that a rank that is lost is noticed at once, whatever the others are doing.

use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::ending::{Ending, Failure, Reason};
use super::environment::Place;
use super::frame::{self, Kind};
use crate::{Context, Error, Result, cli, error};

/// The time after which a rank that waits looks whether the run ends.
const LOOK: Duration = Duration::from_millis(50);
/// How often a rank whose connection has ended looks for the reason.
const LOOKS: usize = 200;

/// A connection to write to.
type Writer = Arc<Mutex<TcpStream>>;

/// The other end of a connection.
struct Peer {
    writer: Writer,
    parts: Receiver<Vec<u8>>,
}

/// The connections of this rank: on rank 0 one to every other rank, in their order; elsewhere one to rank 0.
pub(super) struct Star {
    peers: Vec<Peer>,
    ending: Arc<Ending>,
    is_first: bool,
}

/// What a thread that reads a connection knows.
struct Reader {
    stream: TcpStream,
    /// The rank at the other end, and its machine.
    rank: usize,
    host: String,
    parts: Sender<Vec<u8>>,
    ending: Arc<Ending>,
    /// On rank 0, the connections to all ranks.
    all: Vec<Writer>,
}

impl Star {
    /// Takes over the connections of a run that has begun, each with the rank at its other end and its machine.
    pub(super) fn new(connections: Vec<(TcpStream, usize, String)>, place: &Place) -> Result<Self> {
        let is_first = place.rank == 0;
        // One rank of each machine: those beside rank 0 may be gone with it.
        let ending = Arc::new(Ending::new(place.rank == 1 || place.local_rank == 0));
        let mut writers = Vec::with_capacity(connections.len());
        for (stream, ..) in &connections {
            writers.push(Arc::new(Mutex::new(stream.try_clone()?)));
        }
        let mut peers = Vec::with_capacity(connections.len());
        for ((stream, rank, host), writer) in connections.into_iter().zip(&writers) {
            let (sender, parts) = mpsc::channel();
            let all = if is_first { writers.clone() } else { Vec::new() };
            let reader = Reader { stream, rank, host, parts: sender, ending: Arc::clone(&ending), all };
            let thread = thread::Builder::new().name(format!("rank {rank}"));
            thread.spawn(move || reader.read()).context("cannot listen to other ranks")?;
            peers.push(Peer { writer: Arc::clone(writer), parts });
        }
        Ok(Self { peers, ending, is_first })
    }

    /// The part of every rank, in the order of the ranks, on rank 0; nothing elsewhere.
    pub(super) fn gather(&self, part: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        if !self.is_first {
            self.peers.iter().try_for_each(|peer| self.send(peer, &part))?;
            return Ok(Vec::new());
        }
        let mut parts = vec![part];
        for peer in &self.peers {
            parts.push(self.receive(peer)?);
        }
        Ok(parts)
    }

    /// Returns on all ranks what rank 0 gives; what other ranks give is ignored.
    pub(super) fn spread(&self, whole: Vec<u8>) -> Result<Vec<u8>> {
        if self.is_first {
            self.peers.iter().try_for_each(|peer| self.send(peer, &whole))?;
            return Ok(whole);
        }
        self.peers.first().map_or(Ok(whole), |first| self.receive(first))
    }

    /// Waits until all ranks have called this.
    pub(super) fn meet(&self) -> Result<()> {
        self.gather(Vec::new())?;
        self.spread(Vec::new()).map(drop)
    }

    /// The part that a rank has sent to this one, rank 0; `None` where none has come yet.
    pub(super) fn received(&self, rank: usize) -> Result<Option<Vec<u8>>> {
        let peer = rank.checked_sub(1).and_then(|index| self.peers.get(index));
        match peer.map(|peer| peer.parts.try_recv()) {
            Some(Ok(part)) => Ok(Some(part)),
            Some(Err(TryRecvError::Disconnected)) => self.wait_for_the_end(),
            Some(Err(TryRecvError::Empty)) | None => self.check().map(|()| None),
        }
    }

    /// Sends a part. What fails shows at the other end of the connection too, where a thread reads it.
    fn send(&self, peer: &Peer, part: &[u8]) -> Result<()> {
        match write(&peer.writer, Kind::Part, part) {
            true => Ok(()),
            false => self.wait_for_the_end(),
        }
    }

    fn receive(&self, peer: &Peer) -> Result<Vec<u8>> {
        loop {
            match peer.parts.recv_timeout(LOOK) {
                Ok(part) => return Ok(part),
                Err(RecvTimeoutError::Timeout) => self.check()?,
                Err(RecvTimeoutError::Disconnected) => return self.wait_for_the_end(),
            }
        }
    }

    /// The error of a run that ends, as soon as the thread that reads the connection knows the reason.
    fn wait_for_the_end<T>(&self) -> Result<T> {
        for _ in 0..LOOKS {
            self.check()?;
            thread::sleep(LOOK);
        }
        Err(error!(Bug, "another rank has ended where this one waits for it"))
    }

    /// An error where the run ends.
    pub(super) fn check(&self) -> Result<()> {
        self.ending.check()
    }

    /// Why and how the run ends.
    pub(super) fn ending(&self) -> &Arc<Ending> {
        &self.ending
    }

    /// Why the run ends; `None` while it does not.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.ending.reason()
    }

    /// Tells the other ranks that this rank has ended without an error.
    pub(super) fn done(&self) {
        self.tell(Kind::Done, &[]);
    }

    /// Tells the other ranks that this rank has failed. Rank 0 reports it; another rank waits until rank 0 knows.
    pub(super) fn failed(&self, error: &Error) {
        if self.is_first {
            return self.tell(Kind::Over, &[cli::exit_code(error.kind())]);
        }
        self.tell(Kind::Failed, &serde_json::to_vec(&Failure::of(error)).unwrap_or_default());
        let _: Result<()> = self.wait_for_the_end();
    }

    fn tell(&self, kind: Kind, bytes: &[u8]) {
        for peer in &self.peers {
            write(&peer.writer, kind, bytes);
        }
    }
}

/// Writes a frame, and returns whether that was possible.
fn write(writer: &Writer, kind: Kind, bytes: &[u8]) -> bool {
    let mut stream = writer.lock().unwrap_or_else(PoisonError::into_inner);
    frame::write(&mut *stream, kind, bytes).is_ok()
}

impl Reader {
    /// Reads the connection until it ends.
    fn read(mut self) {
        loop {
            match frame::read(&mut self.stream, frame::LARGEST) {
                Ok((Kind::Part, part)) => {
                    if self.parts.send(part).is_err() {
                        return;
                    }
                }
                Ok((Kind::Done, _)) => return,
                Ok((Kind::Over, code)) => {
                    self.ending.begin(Reason::Over(code.first().copied().unwrap_or(1)));
                    return;
                }
                Ok((Kind::Failed, failure)) => match serde_json::from_slice(&failure) {
                    Ok(failure) => {
                        let (rank, host) = (self.rank, self.host.clone());
                        return self.end(Reason::Failed { rank, host, failure });
                    }
                    Err(_) => return self.lose(),
                },
                Ok(_) | Err(_) => return self.lose(),
            }
        }
    }

    fn lose(&self) {
        self.end(Reason::Lost { rank: self.rank, host: self.host.clone() });
    }

    /// Ends the run; on rank 0, also tells all other ranks.
    fn end(&self, reason: Reason) {
        let code = match &reason {
            Reason::Failed { failure, .. } => failure.code(),
            _ => 1,
        };
        if self.ending.begin(reason) {
            for writer in &self.all {
                write(writer, Kind::Over, &[code]);
            }
        }
    }
}
