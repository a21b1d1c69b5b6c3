//! Panics of libraries that read what strangers wrote, as errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs the work of a library. Where it panics, nothing is printed and what it said is returned.
///
/// Whatever the work was changing is in an unknown state after a panic and must not be used again.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let aloud = panic::take_hook();
        panic::set_hook(Box::new(move |information| {
            if !IS_CAUGHT.get() {
                aloud(information);
            }
        }));
    });
    let outer = IS_CAUGHT.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    IS_CAUGHT.set(outer);
    outcome.map_err(said)
}

fn said(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_what_it_said() {
        assert_eq!(caught(|| 3), Ok(3));
        let index = std::hint::black_box(7);
        assert!(caught(|| [1, 2, 3][index]).unwrap_err().contains("out of bounds"));
    }
}
