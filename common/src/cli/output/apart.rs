//! Keeps an output out of the inputs: what a tool reads is never what it writes, whatever links,
//! `..` and bind mounts lie between the two names.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// Most directories below an input or an output that are searched for a bind mount of the other.
const MOST_DIRECTORIES: usize = 1000;

/// The identity of a file or directory, which is the same under all its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Identity {
    /// Device and inode of a file or directory that exists.
    Existing(u64, u64),
    /// The path, without links, that a file or directory will have.
    Planned(PathBuf),
}

/// Fails where `output` is, holds or lies in one of `inputs`.
pub(super) fn check(output: &Path, inputs: &[PathBuf]) -> Result<()> {
    let outer = trace(output)?;
    let within_output = directories_in(output);
    for input in inputs {
        // An input that is not there is for its reader to report.
        let Ok(input_trace) = trace(input) else { continue };
        let relation = if outer[0] == input_trace[0] {
            "is"
        } else if input_trace.contains(&outer[0]) || input_trace.iter().any(|it| within_output.contains(it)) {
            "holds"
        } else if outer.contains(&input_trace[0])
            || outer.iter().any(|it| directories_in(input).contains(it))
            || repository(input).is_some_and(|repository| outer.contains(&repository))
        {
            "lies in"
        } else {
            continue;
        };
        return Err(Error::usage(format!(
            "the output {} {relation} the input {}",
            output.display(),
            input.display()
        ))
        .hint("choose another place for the output"));
    }
    Ok(())
}

/// The identities of a path and of all directories that it lies in; the path itself comes first.
fn trace(path: &Path) -> Result<Vec<Identity>> {
    let absolute = std::path::absolute(path)?;
    let Some(existing) = absolute.ancestors().find(|path| path.exists()) else { return Ok(vec![]) };
    let canonical = fs_err::canonicalize(existing)?;
    let rest = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
    if rest.components().any(|part| part == Component::ParentDir) {
        return Err(Error::usage(format!("{} goes back from a directory that is not there", path.display())));
    }
    let mut trace = Vec::new();
    let mut planned = canonical.join(rest);
    while planned != canonical {
        trace.push(Identity::Planned(planned.clone()));
        planned.pop();
    }
    trace.extend(canonical.ancestors().filter_map(identity));
    Ok(trace)
}

fn identity(path: &Path) -> Option<Identity> {
    let found = path.metadata().ok()?;
    Some(Identity::Existing(found.dev(), found.ino()))
}

/// The directories below a directory, without following links.
fn directories_in(directory: &Path) -> HashSet<Identity> {
    let mut found = HashSet::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && found.len() < MOST_DIRECTORIES {
                found.extend(identity(&entry.path()));
                open.push(entry.path());
            }
        }
    }
    found
}

/// The repository in the hub's cache that an input belongs to: its files are links to others there.
fn repository(input: &Path) -> Option<Identity> {
    let canonical = std::fs::canonicalize(input).ok()?;
    let is_repository = |path: &&Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("models--") || name.starts_with("datasets--")
    };
    canonical.ancestors().find(is_repository).and_then(identity)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_output_has_nothing_to_do_with_an_input() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs_err::create_dir_all(path("model/sub")).unwrap();
        fs_err::write(path("data.json"), "[]").unwrap();
        symlink(path("model"), path("link")).unwrap();
        symlink(path("data.json"), path("data-link")).unwrap();
        let hub = "hub/models--a--b";
        fs_err::create_dir_all(path(hub).join("snapshots/1")).unwrap();
        let inputs = [path("model"), path("data.json"), path("absent"), path(hub).join("snapshots/1")];
        let said = |output: &str| match check(&path(output), &inputs) {
            Ok(()) => "apart".to_owned(),
            Err(error) => error.to_string(),
        };
        for (output, relation) in [
            ("model", "is the input"),
            ("model/.", "is the input"),
            ("link", "is the input"),
            ("model/sub/..", "is the input"),
            ("data.json", "is the input"),
            ("data-link", "is the input"),
            ("model/new/out", "lies in the input"),
            ("link/sub/new", "lies in the input"),
            ("other/../model/new", "goes back from"),
            ("hub/models--a--b/blobs", "lies in the input"),
            ("", "holds the input"),
            ("out", "apart"),
            ("model-2", "apart"),
            ("hub/models--a--c", "apart"),
        ] {
            assert!(said(output).contains(relation), "{output}: {}", said(output));
        }
    }
}
