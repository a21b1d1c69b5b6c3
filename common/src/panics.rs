//! Turns panics of libraries that read foreign files into messages.
//!
//! A panic within [`caught`] prints nothing and unwinds no further. The values that the library was
//! working on are in an unknown state afterwards and must not be used again; memory stays sound, because
//! unwinding drops what was alive.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether panics of this thread are caught at the moment, so that none is printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The payload that [`stop`] unwinds with.
struct Stopped(String);

/// Returns what `work` returns, or the message that it panicked or was stopped with.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |information| {
            if !QUIET.get() {
                usual(information);
            }
        }));
    });
    let before = QUIET.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    outcome.map_err(|payload| message(payload.as_ref()))
}

/// Ends the work that [`caught`] runs on this thread, where a library has no way to pass an error on.
pub fn stop(reason: String) -> ! {
    panic::resume_unwind(Box::new(Stopped(reason)))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let stopped = payload.downcast_ref::<Stopped>().map(|stopped| stopped.0.clone());
    let text = payload.downcast_ref::<String>().cloned();
    let literal = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    stopped.or(text).or(literal).unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_stops_become_messages() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| [0; 2][std::hint::black_box(1) - 1]), Ok(0));
        assert_eq!(
            caught(|| if true {
                panic!("at {}", 7)
            }),
            Err("at 7".to_owned())
        );
        assert_eq!(caught(|| stop("enough".to_owned())).map(|()| 0), Err("enough".to_owned()));
    }
}
