//! SIGINT, SIGTERM and SIGHUP: the first asks the tool to stop at the next safe point, the second
//! ends it at once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Installs the signal handler.
#[allow(clippy::exit)] // a second signal must end the process from the handler's thread
pub(super) fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })
    .map_err(|error| Error::new(error).context("cannot listen for signals"))
}

/// Whether a signal has asked the tool to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Whether a signal has asked to stop, for a tool that stops one answer and goes on.
pub fn take_interrupted() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// An error with exit code 130 once a signal has asked the tool to stop.
pub fn check_interrupted() -> Result<()> {
    if interrupted() { Err(Error::interrupted("interrupted")) } else { Ok(()) }
}
