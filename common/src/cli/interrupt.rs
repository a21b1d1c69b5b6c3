//! SIGINT, SIGTERM and SIGHUP: the first asks the tool to stop at the next safe point, the second
//! ends it at once. A signal that was ignored when the tool began, as SIGHUP is under nohup, stays
//! ignored.

use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{Context, Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Whether something other than a signal has asked the tool to stop.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Installs the signal handler.
#[allow(clippy::exit)] // a second signal must end the process from the handler's thread
pub(super) fn listen() -> Result<()> {
    let ignored = ignored_signals();
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = Signals::new(wanted).context("cannot listen for signals")?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                if INTERRUPTED.swap(true, Ordering::SeqCst) {
                    std::process::exit(130);
                }
            }
        })
        .context("cannot listen for signals")?;
    Ok(())
}

/// The signals that this process was told to ignore, one bit each, beginning with signal 1; 0 where the
/// system does not tell.
fn ignored_signals() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Whether a signal has asked the tool to stop, or another rank of the run.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed) || STOPPED.load(Ordering::Relaxed)
}

/// Asks the tool to stop at the next safe point, as a first signal does.
pub(crate) fn stop() {
    STOPPED.store(true, Ordering::SeqCst);
}

/// Whether a signal has asked to stop, which is then forgotten: for a tool that stops one answer and
/// continues.
pub fn take_interrupted() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// An error with exit code 130 once a signal has asked the tool to stop.
pub fn check_interrupted() -> Result<()> {
    if interrupted() { Err(Error::interrupted("interrupted")) } else { Ok(()) }
}
