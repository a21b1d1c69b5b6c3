//! What the tools write, without ever losing anything else.
//!
//! | file | what it is |
//! |---|---|
//! | `destination` | the place of a result, checked against everything that is read |
//! | `apart` | whether an output is, holds or lies in an input |
//! | `directory` | a directory that appears whole or not at all |
//! | `replace` | what a result may replace, and how |
//! | `new_parents` | directories made above a result, removed where it fails |
//! | `growing` | a directory that grows in place |
//! | `file` | a file that the user has named |
//! | `made_by` | `made-by.json`: which tool made a directory, and which files in it |
//! | `scratch` | the directory beside a result in which it is written, and its lock |
//! | `write` | the system calls that they share |
//!
//! A directory is a tool's where its `made-by.json` names the tool and lists what it wrote. A tool
//! that finds its own result already made says so and is done; one that finds something else stops.
//! `--force` removes the listed files and no others.

mod apart;
mod destination;
mod directory;
mod file;
mod growing;
mod made_by;
mod new_parents;
mod replace;
mod scratch;
mod write;

use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use crate::{Error, Result, error};
use made_by::MadeBy;

pub use destination::Destination;
pub use directory::{Begun, OutputDirectory};
pub use file::OutputFile;
pub use growing::{GrowingDirectory, expect_ours};
pub use write::{create_new, no_follow, temporary, write_file};

/// What each part of a finished directory was made from, by file name.
pub fn parts_of(path: &Path) -> Map<String, Value> {
    MadeBy::read(path).map(|made_by| made_by.parts).unwrap_or_default()
}

/// The recipe from which `tool` made the finished result in `path`. `None` where `path` is not a result of
/// `tool`, or is not finished.
pub fn recipe_of(path: &Path, tool: &str) -> Option<Value> {
    MadeBy::read(path)
        .filter(|made_by| !made_by.unfinished && made_by.tool == tool)
        .map(|made_by| made_by.recipe)
}

/// Whether `path` is a directory in which `tool` has begun work and not finished it.
pub fn is_unfinished(path: &Path, tool: &str) -> bool {
    MadeBy::read(path).is_some_and(|made_by| made_by.unfinished && made_by.tool == tool)
}

/// The error for a result that exists and was made from something else.
pub fn made_otherwise(path: &Path) -> Error {
    error!("{} exists and was made from something else", path.display())
        .hint("--force replaces it, -o chooses another name")
}

/// The error for a directory that holds files which `tool` did not make; `entry` is the first of them.
fn foreign(path: &Path, entry: &Path, tool: &str) -> Error {
    let entry = entry.file_name().map_or(entry.display().to_string(), |name| name.display().to_string());
    error!("{} holds {entry}, which {tool} did not make", path.display())
        .hint("choose a new directory with -o; nothing in this one is touched")
}

/// The size and modification time of a file, which recipes and parts record to recognise it.
pub fn file_version(file: &Path) -> Result<Value> {
    let metadata = fs_err::metadata(file)?;
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok(json!({
        "size": metadata.len(),
        "modified": modified.map(|time| format!("{}.{:09}", time.as_secs(), time.subsec_nanos())),
    }))
}
