//! The way from a request to the thread that computes: a queue of jobs, of which only a bounded number is let in.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use common::generate::{GenerationSettings, StopReason};
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::openai::{Problem, TokenLogprob};

/// An answer that a client waits for.
pub(crate) struct Job {
    /// Which model of the catalog answers.
    pub model: usize,
    /// The number of the answer among those of its request.
    pub index: usize,
    /// The tokens of the prompt.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub settings: GenerationSettings,
    /// What decides random choices.
    pub seed: u64,
    /// Texts that end the answer.
    pub stops: Vec<String>,
    /// Whether the log-probability of each token is wanted, and those of how many of the likeliest tokens.
    pub logprobs: Option<usize>,
    /// Where the answer goes. It is closed when the client hangs up.
    pub events: Sender<(usize, Progress)>,
    /// Keeps the room that was given to the request until the job is dropped.
    pub _ticket: Ticket,
}

/// What has happened to an answer.
pub(crate) enum Progress {
    /// More of the text.
    Piece {
        /// The text, which may be empty while a character is not complete.
        text: String,
        /// The log-probability of the token, where it was asked for.
        logprob: Option<TokenLogprob>,
    },
    /// The answer is complete.
    End {
        /// The rest of the text.
        text: String,
        /// Why it has ended.
        reason: StopReason,
        /// The number of tokens of the answer.
        tokens: usize,
    },
    /// The answer cannot be computed.
    Failed(Problem),
}

/// The right to have answers computed. The room that it takes is free when all of its copies are dropped.
#[derive(Clone)]
pub(crate) struct Ticket {
    _permit: Arc<OwnedSemaphorePermit>,
}

/// Lets requests in, as many as have room.
pub(crate) struct Queue {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    capacity: usize,
}

impl Queue {
    /// A queue for `capacity` answers, those that are computed included, and its other end.
    pub(crate) fn new(capacity: usize) -> (Self, Jobs) {
        let (jobs, receiver) = mpsc::channel();
        (Self { jobs, room: Arc::new(Semaphore::new(capacity)), capacity }, Jobs(receiver))
    }

    /// Returns the most answers that are let in.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Lets in a request for this many answers, where there is room for all of them.
    pub(crate) fn admit(&self, answers: usize) -> Option<Ticket> {
        let permit = self.room.clone().try_acquire_many_owned(u32::try_from(answers).ok()?);
        permit.ok().map(|permit| Ticket { _permit: Arc::new(permit) })
    }

    /// Hands over a job. Where nothing computes any more, it is dropped, and its client learns of that.
    pub(crate) fn submit(&self, job: Job) {
        let _ = self.jobs.send(job);
    }
}

/// The jobs, in the order in which they came.
pub(crate) struct Jobs(Receiver<Job>);

impl Jobs {
    /// Waits for a job, at most for `wait`. Fails when no more can come.
    pub(crate) fn next(&self, wait: Duration) -> common::Result<Option<Job>> {
        match self.0.recv_timeout(wait) {
            Ok(job) => Ok(Some(job)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(common::error!(Bug, "the server has stopped")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_let_in_whole_or_not_at_all() {
        let (queue, _jobs) = Queue::new(3);
        let two = queue.admit(2).unwrap();
        let copy = two.clone();
        assert!(queue.admit(2).is_none());
        let one = queue.admit(1).unwrap();
        drop(two);
        assert!(queue.admit(1).is_none(), "a copy is left");
        drop(copy);
        assert!(queue.admit(2).is_some());
        drop(one);
        assert!(queue.admit(4).is_none());
    }
}
