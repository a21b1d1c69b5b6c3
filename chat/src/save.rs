//! Writes conversations as rows of training data.

use std::path::{Path, PathBuf};

use common::Result;
use common::cli::{Destination, OutputFile};
use common::text::Conversation;

/// Begins the file at `path`, which must not be one of `inputs`. A file that is there is replaced only if
/// `force` says so.
pub(crate) fn begin(path: &Path, inputs: &[PathBuf], force: bool) -> Result<OutputFile> {
    OutputFile::begin(&Destination::file(path, inputs)?, force, "chat")
}

/// Writes the conversations into a file that has begun.
pub(crate) fn finish(mut file: OutputFile, conversations: &[Conversation]) -> Result<()> {
    file.write(&(serde_json::to_string_pretty(conversations)? + "\n"))?;
    file.finish();
    Ok(())
}
