//! The place of a result, checked against everything that the tool reads.

use std::path::{Path, PathBuf};

use super::apart;
use crate::{Error, Result, disk, error};

/// A place for a result that is not an input, does not hold one and does not lie in one. Every output is
/// made from a `Destination`, so that no tool can forget the comparison.
#[derive(Debug, Clone)]
pub struct Destination {
    named: PathBuf,
    path: PathBuf,
}

impl Destination {
    /// The directory, new or existing, that will hold a result made from `inputs`.
    pub fn directory(named: &Path, inputs: &[PathBuf]) -> Result<Self> {
        let line_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
        if named.as_os_str().as_encoded_bytes().iter().any(line_break) {
            return Err(Error::usage(format!(
                "the path {named:?} has a line break in its name, which no other tool could read"
            ))
            .hint("choose another name with -o"));
        }
        apart::check(named, inputs)?;
        match named.metadata() {
            Ok(found) if !found.is_dir() => Err(error!("{} exists and is not a directory", named.display())
                .hint("choose another name with -o")),
            // A link to a directory stands for that directory.
            Ok(_) => Ok(Self { named: named.to_path_buf(), path: fs_err::canonicalize(named)? }),
            Err(_) if named.symlink_metadata().is_ok() => {
                Err(error!("{} exists and is a link to nothing", named.display())
                    .hint("choose another name with -o"))
            }
            Err(_) => Ok(Self { named: named.to_path_buf(), path: named.components().as_path().into() }),
        }
    }

    /// The file, in an existing directory, that will be made from `inputs`.
    pub fn file(named: &Path, inputs: &[PathBuf]) -> Result<Self> {
        apart::check(named, inputs)?;
        if named.is_dir() {
            return Err(error!("{} is a directory", named.display()).hint("name a file in it"));
        }
        let folder = disk::parent(named);
        if named.file_name().is_none() || !folder.is_dir() {
            return Err(error!("{}: there is no directory {}", named.display(), folder.display())
                .hint(format_args!("mkdir -p {}", crate::cli::quoted_path(folder))));
        }
        Ok(Self { named: named.to_path_buf(), path: named.to_path_buf() })
    }

    /// The path that the user gave.
    pub fn named(&self) -> &Path {
        &self.named
    }

    /// The path without a link at its end.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
