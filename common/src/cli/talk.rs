//! Messages for people, on stderr: `tool: message`, errors with their `hint:` line.

#![allow(clippy::print_stderr)]

use std::sync::OnceLock;

use crate::Error;

struct Talk {
    tool: &'static str,
    quiet: bool,
    verbose: bool,
}

static TALK: OnceLock<Talk> = OnceLock::new();

pub(super) fn begin(tool: &'static str, quiet: bool, verbose: bool) {
    // Set once per process; a second tool in one process would keep the first one's name.
    let _ = TALK.set(Talk { tool, quiet, verbose });
}

/// Unit tests have no tool: they stay silent unless they ask otherwise.
pub fn talk_in_tests() {
    begin("test", false, true);
}

fn say(message: impl std::fmt::Display) {
    let tool = TALK.get().map_or("qlora", |talk| talk.tool);
    super::progress::above_bars(|| eprintln!("{tool}: {message}"));
}

/// What the tool does and what came of it. Hidden by `--quiet`.
pub fn note(message: impl std::fmt::Display) {
    if !is_quiet() {
        say(message);
    }
}

/// What the user should know before trusting the result. Shown even with `--quiet`.
pub fn warn(message: impl std::fmt::Display) {
    say(format_args!("warning: {message}"));
}

/// What only `--verbose` shows.
pub fn detail(message: impl std::fmt::Display) {
    if TALK.get().is_some_and(|talk| talk.verbose) {
        say(message);
    }
}

/// Asks for input on a terminal; the cursor stays behind it.
pub fn prompt(text: &str) {
    eprint!("{text}");
}

/// Whether only errors and warnings are wanted.
pub fn is_quiet() -> bool {
    TALK.get().is_none_or(|talk| talk.quiet)
}

pub(super) fn error(error: &Error) {
    let tool = TALK.get().map_or("qlora", |talk| talk.tool);
    eprintln!("{tool}: error: {error}");
    if let Some(hint) = error.hint_text() {
        eprintln!("hint: {hint}");
    }
}
