//! The one error type of all tools: what went wrong, and what to do about it.
//!
//! A message names the file, tensor, line or flag, what was expected and what was found. It is lower case
//! and has no full stop. Every error has a hint: either one written where the error was found, which is
//! the most specific, or the one of its [`Kind`], which each tool may replace by its own words
//! ([`crate::cli::Tool`]). An [`Unhinted`] message has neither and is no error yet, so that a hint cannot
//! be forgotten.

use std::fmt;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error. It decides the exit code, and the hint where the error has none of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An error that was given a hint of its own.
    Hinted,
    /// A file does not hold what its name or format promises: truncated, damaged, of another kind.
    Malformed,
    /// A file is what it should be, but of a variant that these tools do not handle.
    Unsupported,
    /// A file, tensor or key is not there.
    Missing,
    /// A result cannot go where something else is.
    Exists,
    /// Two inputs do not belong together, such as an adapter and a model of another shape.
    Mismatch,
    /// A row of a data set cannot be used.
    Row,
    /// Something is larger than these tools accept.
    TooLarge,
    /// A text has more tokens than the model takes.
    TooLong,
    /// The memory of the GPU or of the machine is used up.
    OutOfMemory,
    /// The disk, or the user's share of it, is full.
    DiskFull,
    /// The user may not read or write a file.
    Denied,
    /// A file was changed by another program while it was read.
    Changed,
    /// A server, or the way to it, failed.
    Network,
    /// The GPU, its driver or one of its libraries failed.
    Gpu,
    /// The operating system refused something.
    System,
    /// An invariant of the program does not hold.
    Bug,
    /// The command line cannot be honoured: exit code 2.
    Usage,
    /// A signal asked the tool to stop: exit code 130.
    Interrupted,
    /// The reader of the tool's output has closed it: exit code 0, without a message.
    ClosedPipe,
}

impl Kind {
    /// The hint of errors of this kind that have none of their own. `None` where there is nothing to mend.
    pub fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::Hinted | Self::Interrupted | Self::ClosedPipe => return None,
            Self::Malformed => {
                "the file is damaged or not what its name says: fetch or make it again, or name another"
            }
            Self::Unsupported => "use a model, adapter or file of a kind that the README lists",
            Self::Missing => "check the path and the name",
            Self::Exists => "choose another name with -o",
            Self::Mismatch => "check that these files were made for each other",
            Self::Row => "mend or remove that row",
            Self::TooLarge => "use a smaller file, or split it",
            Self::TooLong => "use a shorter text",
            Self::OutOfMemory => "close other programs that use this memory, or choose a smaller model",
            Self::DiskFull => "free some disk space and run the same command again",
            Self::Denied => "choose a place that you may read and write, or change its permissions",
            Self::Changed => "wait until nothing writes to the file, and run the same command again",
            Self::Network => "check the connection and run the same command again",
            Self::Gpu => "nvidia-smi shows the state of the GPU; --device cpu computes without it",
            Self::System => "mend what the message names, and run the same command again",
            Self::Bug => "this is a fault of the tool: please report it with the command that shows it",
            Self::Usage => "--help lists the options and shows examples",
        })
    }
}

/// What went wrong, and how to mend it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

/// A message that becomes an [`Error`] once it has a hint or a kind; [`crate::error!`] makes one.
#[derive(Debug)]
#[must_use]
pub struct Unhinted(String);

impl Unhinted {
    /// A message that lacks a hint or a kind.
    pub fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }

    /// Makes it an error with this hint.
    pub fn hint(self, hint: impl fmt::Display) -> Error {
        Error { kind: Kind::Hinted, message: self.0, hint: Some(hint.to_string()) }
    }

    /// Makes it an error of this kind, which has the hint of the kind.
    pub fn kind(self, kind: Kind) -> Error {
        Error::new(kind, self.0)
    }
}

impl Error {
    /// An error of a kind, with the hint of the kind.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), hint: None }
    }

    /// An error in the content of a file. It takes the error of any reader: `map_err(Error::malformed)`.
    pub fn malformed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Malformed, message)
    }

    /// An error in how the tool was called, with exit code 2.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The error of a tool that was asked to stop, with exit code 130.
    pub fn interrupted(message: impl fmt::Display) -> Self {
        Self::new(Kind::Interrupted, message)
    }

    /// The end of a tool whose output nothing reads any more, with exit code 0.
    pub fn closed_pipe() -> Self {
        Self::new(Kind::ClosedPipe, "closed pipe")
    }

    /// Adds a hint, unless the error has one already: the innermost is the most specific.
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint.get_or_insert_with(|| hint.to_string());
        self
    }

    /// Puts what was being done in front of the message: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The kind of the error.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The hint of this error. Where there is none, [`Kind::hint`] serves.
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
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::NotFound | Io::NotADirectory | Io::IsADirectory => Kind::Missing,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => Kind::Denied,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Kind::DiskFull,
            Io::AlreadyExists | Io::DirectoryNotEmpty => Kind::Exists,
            Io::UnexpectedEof | Io::InvalidData => Kind::Malformed,
            Io::OutOfMemory => Kind::OutOfMemory,
            _ => Kind::System,
        };
        Self::new(kind, error)
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::new(Kind::Bug, error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::new(Kind::Malformed, error)
    }
}

impl From<safetensors::SafeTensorError> for Error {
    fn from(error: safetensors::SafeTensorError) -> Self {
        Self::new(Kind::Malformed, error)
    }
}

/// Adds context and hints to any result.
pub trait Context<T> {
    /// Puts what was being done in front of an error's message: `context: message`.
    fn context(self, context: impl fmt::Display) -> Result<T>;
    /// Like [`Context::context`], with a context that is built only on failure.
    fn with_context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T>;
    /// Adds a hint to an error that has none.
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

/// Builds an [`Error`] of a kind from a format string: `error!(Malformed, "{name} is empty")`. Without
/// a kind it builds a [`Unhinted`], which becomes an error by its hint: `error!("…").hint("…")`.
#[macro_export]
macro_rules! error {
    ($kind:ident, $($arg:tt)*) => { $crate::Error::new($crate::error::Kind::$kind, format!($($arg)*)) };
    ($($arg:tt)*) => { $crate::error::Unhinted::new(format!($($arg)*)) };
}

/// Returns an [`Error`] of a kind: `bail!(Malformed, "{name} is empty")`.
#[macro_export]
macro_rules! bail {
    ($kind:ident, $($arg:tt)*) => { return Err($crate::error!($kind, $($arg)*)) };
}
