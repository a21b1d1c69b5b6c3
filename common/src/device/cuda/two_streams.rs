//! Two streams of a GPU as tests imagine them: what each stream does is noted down, and the order of their work is known
//! only as far as one stream waits for the other.

use std::fmt::Debug;

use crate::{Result, error};

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// The stream that computes.
    Compute,
    /// The stream that copies.
    Copy,
}

/// What a stream does with a piece of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Writes this number; `None` where the write fails on the way.
    Write(Option<usize>),
    /// Reads, and expects this number.
    Read(usize),
}

/// The work of a stream with the memory `M`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queued<M> {
    pub stream: Stream,
    pub memory: M,
    pub work: Work,
    /// The number of works that its stream does before it.
    pub own: usize,
    /// The number of works that the other stream is sure to have done before it.
    pub other: usize,
}

impl<M> Queued<M> {
    fn is_before(&self, later: &Self) -> bool {
        match self.stream == later.stream {
            true => self.own < later.own,
            false => self.own < later.other,
        }
    }
}

/// Two streams, and calls of which one fails.
pub(super) struct TwoStreams<M> {
    /// The works of both streams, in the order in which they were queued.
    pub queued: Vec<Queued<M>>,
    /// The number of works of each stream.
    counts: [usize; 2],
    /// The number of works of the other stream that each stream waits for.
    waits: [usize; 2],
    /// The number of calls so far.
    pub calls: usize,
    /// The number of the call that fails, from 1; 0 where none does.
    fails_at: usize,
}

impl<M: Copy + Debug + PartialEq> TwoStreams<M> {
    pub(super) fn new(fails_at: usize) -> Self {
        Self { queued: Vec::new(), counts: [0; 2], waits: [0; 2], calls: 0, fails_at }
    }

    pub(super) fn queue(&mut self, stream: Stream, memory: M, work: Work) {
        let (own, other) = (self.count(stream), self.waits[stream as usize]);
        self.queued.push(Queued { stream, memory, work, own, other });
        self.counts[stream as usize] += 1;
    }

    /// Returns the number of works of a stream so far, which an event stands for that is recorded now.
    pub(super) fn count(&self, stream: Stream) -> usize {
        self.counts[stream as usize]
    }

    /// Makes what `stream` does from here on wait for the first `works` works of the other stream.
    pub(super) fn wait(&mut self, stream: Stream, works: usize) {
        let waits = &mut self.waits[stream as usize];
        *waits = works.max(*waits);
    }

    /// Makes what `stream` does from here on wait for all works of the other stream so far.
    pub(super) fn wait_for_all(&mut self, stream: Stream) {
        let other = match stream {
            Stream::Compute => Stream::Copy,
            Stream::Copy => Stream::Compute,
        };
        self.wait(stream, self.count(other));
    }

    /// Makes a call that may fail.
    pub(super) fn call(&mut self) -> Result<()> {
        self.calls += 1;
        if self.calls == self.fails_at { Err(error!(Gpu, "call {}", self.calls)) } else { Ok(()) }
    }

    /// Expects that memory is never written beside other work with it, and that all that is read is what is meant.
    pub(super) fn check(&self) {
        for (at, work) in self.queued.iter().enumerate() {
            let mut last = None;
            for earlier in self.queued[..at].iter().filter(|earlier| earlier.memory == work.memory) {
                let is_write = matches!(earlier.work, Work::Write(_));
                let conflicts = is_write || matches!(work.work, Work::Write(_));
                assert!(!conflicts || earlier.is_before(work), "{earlier:?} beside {work:?}");
                last = if is_write { Some(earlier.work) } else { last };
            }
            if let Work::Read(number) = work.work {
                assert_eq!(last, Some(Work::Write(Some(number))), "{work:?}");
            }
        }
    }
}
