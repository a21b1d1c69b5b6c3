//! The one error type of all tools: what went wrong, and a `hint:` that mends it.
//!
//! A message names the file, tensor, line or flag, what was expected and what was found; it is
//! lower case and has no full stop. The hint is the next thing to do, a command where there is one.

use std::fmt;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How a failed tool ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something went wrong: exit code 1.
    Failed,
    /// The command line cannot be honoured: exit code 2.
    Usage,
    /// A signal asked the tool to stop: exit code 130.
    Interrupted,
    /// Whoever reads our output has left: exit code 0, nothing said.
    ClosedPipe,
}

/// What went wrong, and what mends it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Error {
    /// An error with exit code 1.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Failed, message: message.to_string(), hint: None }
    }

    /// An error in how the tool was called, with exit code 2.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Usage, ..Self::new(message) }
    }

    /// The tool was asked to stop; exit code 130.
    pub fn interrupted(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Interrupted, ..Self::new(message) }
    }

    /// The reader of our output has left; exit code 0.
    pub fn closed_pipe() -> Self {
        Self { kind: Kind::ClosedPipe, ..Self::new("closed pipe") }
    }

    /// Adds what to do about it. The innermost hint wins, because it knows most.
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint.get_or_insert_with(|| hint.to_string());
        self
    }

    /// Says what was being done: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// How the tool ends.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The `hint:` line, without its prefix.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull => {
                Self::new(error).hint("free some disk space and run the same command again")
            }
            _ => Self::new(error),
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::new(error)
    }
}

/// Adds context and hints to any result.
pub trait Context<T> {
    /// Says what was being done: `context: message`.
    fn context(self, context: impl fmt::Display) -> Result<T>;
    /// [`Context::context`], built only on failure.
    fn with_context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T>;
    /// Adds what to do about it.
    fn hint(self, hint: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(context))
    }

    fn with_context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|error| error.into().context(context()))
    }

    fn hint(self, hint: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().hint(hint))
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::new(error)
    }
}

impl From<safetensors::SafeTensorError> for Error {
    fn from(error: safetensors::SafeTensorError) -> Self {
        Self::new(error)
    }
}

/// Builds an [`Error`] from a format string.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::Error::new(format!($($arg)*)) };
}

/// Returns an [`Error`] built from a format string.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::Error::new(format!($($arg)*))) };
}
