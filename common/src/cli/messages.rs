//! Messages for people, on stderr: `tool: message`, errors with their `hint:` line.
//!
//! Every message is one line, whatever text it quotes ([`super::escape`]). Where stderr is closed, full or
//! lost, messages are dropped and the work continues.

use std::fmt::Display;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{escape, secrets};
use crate::Error;
use crate::error::Kind;

/// A tool, as messages name it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The name of its program.
    pub name: &'static str,
    /// The hint that the tool gives for a kind of error, in terms of its own options; `None` where
    /// [`Kind::hint`] serves.
    pub hint: fn(Kind) -> Option<&'static str>,
}

struct Running {
    tool: Tool,
    quiet: bool,
    verbose: bool,
}

static RUNNING: OnceLock<Running> = OnceLock::new();
/// Whether another process of the same run speaks for this one.
static MUTED: AtomicBool = AtomicBool::new(false);

/// From now on this process says nothing, because another process of the same run speaks for it.
pub(crate) fn mute() {
    MUTED.store(true, Ordering::SeqCst);
}

/// From now on this process speaks again.
pub(crate) fn speak() {
    MUTED.store(false, Ordering::SeqCst);
}

fn is_muted() -> bool {
    MUTED.load(Ordering::SeqCst)
}

pub(super) fn begin(tool: Tool, quiet: bool, verbose: bool) {
    // Set once per process; a second tool in one process would keep the first one's name.
    let _ = RUNNING.set(Running { tool, quiet, verbose });
}

/// The name of the running tool.
pub(crate) fn tool_name() -> &'static str {
    RUNNING.get().map_or("qlora", |running| running.tool.name)
}

/// Writes to stderr. Failures are ignored, because there is no other place to report them.
fn write(text: impl Display) {
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
}

fn say(message: impl Display) {
    if is_muted() {
        return;
    }
    let line = format!("{}: {}\n", tool_name(), one_line(message));
    super::stderr::above_bars(|| write(line));
}

/// A message as it is shown: without secrets, on one line.
fn one_line(message: impl Display) -> String {
    escape::one_line(secrets::hide_secrets(&message.to_string()))
}

/// Prints what the tool does or has made. Hidden by `--quiet`.
pub fn note(message: impl Display) {
    if !is_quiet() {
        say(message);
    }
}

/// Prints a text of several lines, each as it is except for control characters. Hidden by `--quiet`.
pub fn note_lines(text: &str) {
    if !is_quiet() {
        let text = secrets::hide_secrets(text.trim_end());
        let text = format!("{}: {}\n", tool_name(), escape::lines(&text));
        super::stderr::above_bars(|| write(text));
    }
}

/// Prints what the user should know before trusting the result. Shown even with `--quiet`.
pub fn warn(message: impl Display) {
    say(format_args!("warning: {message}"));
}

/// Prints a message that is shown only with `--verbose`.
pub fn verbose(message: impl Display) {
    if RUNNING.get().is_some_and(|running| running.verbose) {
        say(message);
    }
}

/// Asks for input on a terminal; the cursor stays after the text.
pub fn prompt(text: &str) {
    write(escape::lines(text));
}

/// Whether the user wants errors and warnings only (`--quiet`).
pub fn is_quiet() -> bool {
    is_muted() || RUNNING.get().is_none_or(|running| running.quiet)
}

/// Prints the error that ends the tool, and its hint.
pub(crate) fn say_error(error: &Error) {
    say(format_args!("error: {error}"));
    if let Some(hint) = hint_of(error).filter(|_| !is_muted()) {
        write(format_args!("hint: {}\n", one_line(hint)));
    }
}

/// The hint of an error: its own, or that of the tool or of all tools for its kind.
pub(crate) fn hint_of(error: &Error) -> Option<String> {
    let of_kind = || RUNNING.get().and_then(|running| (running.tool.hint)(error.kind()));
    error.hint_text().or_else(of_kind).or_else(|| error.kind().hint()).map(str::to_owned)
}

/// Prints what clap says: help and versions on stdout, mistakes with a hint on stderr.
pub(super) fn usage(program: &str, mistake: &clap::Error) {
    if !mistake.use_stderr() {
        let _ = mistake.print();
        return;
    }
    let text = secrets::hide_secrets(&mistake.render().to_string());
    write(format_args!("{}\n", escape::lines(text.trim_end())));
    write(format_args!("hint: {program} --help lists the options and shows examples\n"));
}
