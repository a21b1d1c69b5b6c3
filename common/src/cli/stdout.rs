//! Paths and answers, on stdout. A terminal gets them with control characters shown as escapes; a
//! pipe or a file gets the bytes as they are.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use super::escape::{self, Escaping};
use crate::files::check_unchanged;
use crate::{Error, Result, bail};

/// Standard output, for answers that are streamed. A closed pipe ends the tool quietly.
pub fn stdout() -> Box<dyn Write> {
    let stdout = io::stdout();
    if stdout.is_terminal() { Box::new(Escaping::new(stdout)) } else { Box::new(stdout) }
}

/// Prints an answer, as it is.
pub fn answer(text: impl std::fmt::Display) -> Result<()> {
    check_unchanged()?;
    let mut stdout = io::stdout().lock();
    let written = match stdout.is_terminal() {
        true => write!(stdout, "{}", escape::lines(&text.to_string())),
        false => write!(stdout, "{text}"),
    };
    written.and_then(|()| stdout.flush()).map_err(unwritten)
}

/// Prints the path of a result, one line. The next tool reads a path a line, so one with a line
/// break in it is refused.
pub fn print_path(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        bail!(Usage, "the path {path:?} has a line break in its name, which no other tool could read");
    }
    check_unchanged()?;
    let mut line = bytes.to_vec();
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    let written = match stdout.is_terminal() {
        true => Escaping::new(&mut stdout).write_all(&line),
        false => stdout.write_all(&line),
    };
    written.and_then(|()| stdout.flush()).map_err(unwritten)
}

fn unwritten(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Error::closed_pipe(),
        _ if is_lost_terminal(&error) => Error::closed_pipe(),
        _ => Error::from(error).context("cannot write to standard output"),
    }
}

/// Whether standard output was a terminal that is gone, as after a lost connection. Such a device no
/// longer reports itself as a terminal. There is no reader left, which is not an error of the tool.
fn is_lost_terminal(error: &io::Error) -> bool {
    use rustix::fs::{FileType, fstat};
    let is_device =
        |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        && fstat(io::stdout()).is_ok_and(is_device)
}
