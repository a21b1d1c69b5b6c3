//! Paths out of a tool, and directories that appear whole or not at all.
//!
//! A result directory is written beside its final name as `NAME.partial`, synced, and renamed. It
//! carries `made-by.json`: the tool, its version and everything the result depends on. A tool that
//! finds its own result already made says so and is done; one that finds another result stops.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{Context, Error, Result};

const MADE_BY: &str = "made-by.json";

/// Standard output, for answers that are streamed. A closed pipe ends the tool quietly.
pub fn stdout() -> impl Write {
    std::io::stdout()
}

/// Prints an answer, as it is.
pub fn answer(text: impl std::fmt::Display) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Error::closed_pipe(),
        _ => Error::from(error).context("cannot write to standard output"),
    })
}

/// Prints the path of a result, one line.
pub fn print_path(path: &Path) -> Result<()> {
    answer(format_args!("{}\n", path.display()))
}

/// What [`OutputDirectory::begin`] found.
pub enum Begun {
    /// The work has to be done, into this directory.
    New(OutputDirectory),
    /// The same work has been done before; here is its result.
    Done(PathBuf),
}

/// A directory that gets its final name when it is complete.
pub struct OutputDirectory {
    destination: PathBuf,
    partial: PathBuf,
    made_by: Value,
    _lock: std::fs::File,
    committed: bool,
}

impl OutputDirectory {
    /// Begins `path`, made by `tool` from `recipe`: the inputs and options the bytes depend on.
    ///
    /// Fails where `path` exists and was made otherwise, unless `force` is given; `force` replaces
    /// only what a tool of ours made.
    pub fn begin(path: &Path, force: bool, tool: &str, recipe: Value) -> Result<Begun> {
        let made_by = json!({ "tool": tool, "version": env!("CARGO_PKG_VERSION"), "recipe": recipe });
        let name = path
            .file_name()
            .ok_or_else(|| Error::usage(format!("{} cannot be an output directory", path.display())))?;
        if path.symlink_metadata().is_ok() {
            let existing = read_made_by(path);
            if !force && existing.as_ref() == Some(&made_by) {
                super::note(format_args!("{} is already made; --force makes it again", path.display()));
                return Ok(Begun::Done(path.to_path_buf()));
            }
            if existing.is_none() && !is_empty_directory(path) {
                return Err(Error::new(format!(
                    "{} exists and is not a result of these tools",
                    path.display()
                ))
                .hint("choose another name with -o"));
            }
            if !force && existing.is_some() {
                return Err(Error::new(format!(
                    "{} exists and was made from something else",
                    path.display()
                ))
                .hint("--force replaces it, -o chooses another name"));
            }
        }
        let mut partial_name = name.to_os_string();
        partial_name.push(".partial");
        let partial = path.with_file_name(partial_name);
        let lock = lock_beside(&partial)?;
        if partial.symlink_metadata().is_ok() {
            fs_err::remove_dir_all(&partial)?;
        }
        fs_err::create_dir_all(&partial)?;
        Ok(Begun::New(Self {
            destination: path.to_path_buf(),
            partial,
            made_by,
            _lock: lock,
            committed: false,
        }))
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Syncs everything, gives the directory its final name and returns it.
    pub fn commit(mut self) -> Result<PathBuf> {
        let text = serde_json::to_string_pretty(&self.made_by)? + "\n";
        fs_err::write(self.partial.join(MADE_BY), text)?;
        sync_tree(&self.partial)?;
        let mut aside = None;
        if self.destination.symlink_metadata().is_ok() {
            let mut name = self.partial.as_os_str().to_os_string();
            name.push(".replaced");
            fs_err::rename(&self.destination, &name)?;
            aside = Some(PathBuf::from(name));
        }
        fs_err::rename(&self.partial, &self.destination)?;
        self.committed = true;
        sync(parent(&self.destination))?;
        if let Some(aside) = aside {
            fs_err::remove_dir_all(aside)?;
        }
        Ok(self.destination.clone())
    }
}

impl Drop for OutputDirectory {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs_err::remove_dir_all(&self.partial);
        }
        let _ = fs_err::remove_file(lock_path(&self.partial));
    }
}

fn read_made_by(path: &Path) -> Option<Value> {
    let mut text = String::new();
    fs_err::File::open(path.join(MADE_BY)).ok()?.take(1 << 20).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn is_empty_directory(path: &Path) -> bool {
    fs_err::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn lock_path(partial: &Path) -> PathBuf {
    let mut name = partial.as_os_str().to_os_string();
    name.push(".lock");
    PathBuf::from(name)
}

/// Keeps two processes from writing one result; the kernel frees the lock when a process dies.
fn lock_beside(partial: &Path) -> Result<std::fs::File> {
    fs_err::create_dir_all(parent(partial))?;
    let path = lock_path(partial);
    let lock = std::fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    lock.try_lock().map_err(|_| {
        error!("another process is writing {}", partial.display())
            .hint("wait for it, or choose another name with -o")
    })?;
    Ok(lock)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync(path: &Path) -> Result<()> {
    Ok(fs_err::File::open(path)?.sync_all()?)
}

fn sync_tree(path: &Path) -> Result<()> {
    for entry in fs_err::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else if entry.file_type()?.is_file() {
            sync(&entry.path())?;
        }
    }
    sync(path)
}

use crate::error;

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(path: &Path, force: bool, recipe: &str) -> Result<Begun> {
        OutputDirectory::begin(path, force, "quantize", json!(recipe))
    }

    fn make(path: &Path, force: bool, recipe: &str) {
        let Begun::New(output) = begin(path, force, recipe).unwrap() else { panic!("already done") };
        fs_err::write(output.path().join("config.json"), recipe).unwrap();
        output.commit().unwrap();
    }

    #[test]
    fn appears_whole_or_not_at_all() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("q");
        let Begun::New(output) = begin(&path, false, "a").unwrap() else { panic!() };
        fs_err::write(output.path().join("config.json"), "half").unwrap();
        assert!(!path.exists());
        drop(output);
        assert_eq!(fs_err::read_dir(parent.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn the_same_work_is_done_once_and_other_work_needs_force() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("q");
        make(&path, false, "a");
        assert!(matches!(begin(&path, false, "a").unwrap(), Begun::Done(_)));
        assert!(begin(&path, false, "b").is_err());
        make(&path, true, "b");
        assert_eq!(fs_err::read_to_string(path.join("config.json")).unwrap(), "b");
    }

    #[test]
    fn force_never_replaces_what_we_did_not_make() {
        let parent = tempfile::tempdir().unwrap();
        fs_err::write(parent.path().join("thesis.tex"), "years of work").unwrap();
        assert!(begin(parent.path(), true, "a").is_err());
    }

    #[test]
    fn two_writers_exclude_each_other() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("q");
        let first = begin(&path, false, "a").unwrap();
        assert!(begin(&path, false, "a").is_err());
        drop(first);
        assert!(begin(&path, false, "a").is_ok());
    }
}
