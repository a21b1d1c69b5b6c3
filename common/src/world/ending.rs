//! Why a run of several ranks ends before its work is done, which every rank is told.

use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Kind;
use crate::{Error, Result, cli};

/// The time in which a rank ends by itself after another was lost. A process that waits for a device or a disk
/// is ended then.
pub(super) const GRACE: Duration = Duration::from_secs(17);

/// An error as ranks tell it each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// The failure that `error` is.
    pub(super) fn of(error: &Error) -> Self {
        Self { message: error.to_string(), hint: cli::hint_of(error), code: cli::exit_code(error.kind()) }
    }

    /// The exit code of the rank that failed.
    pub(super) fn code(&self) -> u8 {
        self.code
    }

    fn error(&self, context: &str) -> Error {
        let kind = kind_of_code(self.code);
        let error = Error::new(kind, format!("{context}{}", self.message));
        self.hint.iter().fold(error, |error, hint| error.hint(hint))
    }
}

fn kind_of_code(code: u8) -> Kind {
    match code {
        2 => Kind::Usage,
        130 => Kind::Interrupted,
        _ => Kind::Hinted,
    }
}

/// Why a run ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// The connection to a rank has ended without a word.
    Lost {
        /// The rank that was lost.
        rank: usize,
        /// The machine that it was on.
        host: String,
    },
    /// A rank has failed.
    Failed {
        /// The rank that has failed.
        rank: usize,
        /// The machine that it is on.
        host: String,
        /// The error of the rank, with its hint and exit code.
        failure: Failure,
    },
    /// The run has ended with this exit code, and rank 0 says why.
    Over(u8),
}

impl Reason {
    /// Whether a signal has asked a rank to stop, so that all ranks save what they have.
    pub(super) fn is_interruption(&self) -> bool {
        match self {
            Self::Lost { .. } => false,
            Self::Failed { failure, .. } => kind_of_code(failure.code) == Kind::Interrupted,
            Self::Over(code) => kind_of_code(*code) == Kind::Interrupted,
        }
    }

    /// The error that this rank ends with. `stopped` is the error that the work of this rank ended with, once it
    /// was told to stop: what it says about results that were saved is kept.
    pub(super) fn error(&self, stopped: &Error) -> Error {
        let error = match self {
            Self::Lost { rank, host } => {
                Error::new(Kind::Hinted, format!("rank {rank} on {host} was lost: its connection has ended"))
            }
            Self::Failed { rank, host, failure } => failure.error(&format!("rank {rank} on {host}: ")),
            Self::Over(code) => Error::new(kind_of_code(*code), "another rank has ended the run"),
        };
        match stopped.hint_text() {
            Some(hint) => Error::new(error.kind(), format!("{error}; {stopped}")).hint(hint),
            None => error.hint(
                "the messages of its machine say why it ended; the same command begins again, or continues where \
                 a checkpoint was saved",
            ),
        }
    }
}

/// A function that is called when a run ends.
type Release = Box<dyn FnOnce() + Send>;

/// The reason why the run ends, once there is one.
pub(super) struct Ending {
    reason: Mutex<Option<Reason>>,
    /// The functions that are called when the run ends, so that nothing waits for another rank.
    releases: Mutex<Vec<Release>>,
    /// Whether this rank reports that rank 0 was lost.
    reports_first: bool,
}

impl Ending {
    /// A run that does not end. `reports_first` says whether this rank speaks where rank 0 was lost.
    pub(super) fn new(reports_first: bool) -> Self {
        Self { reason: Mutex::new(None), releases: Mutex::default(), reports_first }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Reason>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reason why the run ends; `None` while it does not.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.lock().clone()
    }

    /// An error where the run ends.
    pub(super) fn check(&self) -> Result<()> {
        match self.reason() {
            Some(_) => Err(Error::interrupted("stopped")),
            None => Ok(()),
        }
    }

    /// Has something done by a thread of its own when the run ends, so that the work of this rank does not wait for
    /// another rank.
    pub(super) fn at_end(&self, release: impl FnOnce() + Send + 'static) {
        let mut releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        releases.push(Box::new(release));
        drop(releases);
        if self.reason().is_some() {
            self.release();
        }
    }

    fn release(&self) {
        let releases = std::mem::take(&mut *self.releases.lock().unwrap_or_else(PoisonError::into_inner));
        releases.into_iter().for_each(|release| release());
    }

    /// Ends the run, unless it ends already: the work of this rank is asked to stop as by a signal. Returns
    /// whether this reason is the first.
    pub(super) fn begin(self: &Arc<Self>, reason: Reason) -> bool {
        let mut place = self.lock();
        if place.is_some() {
            return false;
        }
        let is_interruption = reason.is_interruption();
        if matches!(reason, Reason::Lost { rank: 0, .. }) && self.reports_first {
            cli::speak();
        }
        *place = Some(reason);
        drop(place);
        cli::stop();
        let ending = Arc::clone(self);
        let end = move || {
            ending.release();
            if !is_interruption {
                ending.enforce();
            }
        };
        // Where no thread can be had, the process ends by itself as soon as it looks.
        let _ = thread::Builder::new().name("ending".to_owned()).spawn(end);
        true
    }

    /// Ends the process where it has not ended by itself.
    #[allow(clippy::exit)] // the main thread waits for something that may never come
    fn enforce(&self) {
        thread::sleep(GRACE);
        let Some(reason) = self.reason() else { return };
        let error = reason.error(&Error::interrupted("stopped"));
        cli::say_error(&error);
        process::exit(cli::exit_code(error.kind()).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_said_beside_the_rank_that_was_lost() {
        let lost = Reason::Lost { rank: 3, host: "tux".into() };
        let stopped = Error::interrupted("interrupted; out/checkpoint-7 is saved").hint("--resume");
        let error = lost.error(&stopped);
        assert_eq!(
            error.to_string(),
            "rank 3 on tux was lost: its connection has ended; interrupted; out/checkpoint-7 is saved"
        );
        assert_eq!((error.hint_text(), error.kind()), (Some("--resume"), Kind::Hinted));
        let nothing = lost.error(&Error::interrupted("stopped"));
        assert!(!nothing.to_string().contains("stopped") && nothing.hint_text().is_some());
    }

    #[test]
    fn an_end_releases_what_waits_for_other_ranks() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let release = |name: &'static str| {
            let sender = sender.clone();
            move || sender.send(name).unwrap()
        };
        let ending = Arc::new(Ending::new(false));
        ending.at_end(release("before"));
        assert!(ending.check().is_ok() && receiver.try_recv().is_err());
        // Not `begin`, which would stop the process of the tests.
        *ending.lock() = Some(Reason::Over(130));
        ending.release();
        assert_eq!(receiver.recv().unwrap(), "before");
        assert_eq!(ending.check().unwrap_err().kind(), Kind::Interrupted);
        ending.at_end(release("after"));
        assert_eq!(receiver.recv().unwrap(), "after", "what is too late is done at once");
        ending.release();
        assert!(receiver.try_recv().is_err(), "everything is done once");
    }

    #[test]
    fn a_failure_keeps_its_words_its_hint_and_its_exit_code() {
        let failure = Failure::of(&Error::usage("--x: 1 expected").hint("leave it out"));
        let failed = Reason::Failed { rank: 1, host: "b".into(), failure };
        let error = failed.error(&Error::interrupted("stopped"));
        assert_eq!(error.to_string(), "rank 1 on b: --x: 1 expected");
        assert_eq!((error.hint_text(), error.kind()), (Some("leave it out"), Kind::Usage));
        assert_eq!(Reason::Over(130).error(&Error::interrupted("stopped")).kind(), Kind::Interrupted);
    }
}
