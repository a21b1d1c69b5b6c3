//! Paths out of a tool, and directories that appear whole or not at all.
//!
//! A result directory is written beside its final name as `NAME.partial`, synced, and renamed. It
//! carries `made-by.json`: the tool, its version and everything the result depends on. A tool that
//! finds its own result already made says so and is done; one that finds another result stops.
//!
//! Long work is done in parts: what is finished stays in `NAME.partial`, with a record of what it
//! was made from, and the same command goes on after whatever stopped it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::{Lock, Size};
use crate::{Context, Error, Result, error};

const MADE_BY: &str = "made-by.json";

/// How the names of files begin that have not got their own yet; a tool that is killed leaves them.
pub const TEMPORARY: &str = ".tmp";

/// Writes a file whole or not at all, in the place of any there was.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    let mut file = temporary(path)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| Error::from(failed.error).context(path.display()))?;
    sync(parent(path))
}

/// Fails where [`write_file`] would, so that a tool can say so before long work and not behind it.
pub fn expect_writable(path: &Path) -> Result<()> {
    match path.is_dir() {
        true => Err(error!("{} is a directory", path.display()).hint("name a file in it")),
        false => temporary(path).map(drop),
    }
}

/// A file beside `path`, to get its name.
fn temporary(path: &Path) -> Result<tempfile::NamedTempFile> {
    let folder = parent(path);
    if !folder.is_dir() {
        return Err(error!("{}: there is no directory {}", path.display(), folder.display())
            .hint(format_args!("mkdir -p {}", folder.display())));
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
        .tempfile_in(folder)
        .with_context(|| format!("cannot write in {}", folder.display()))
        .hint("choose a place that can be written, or free some of it")
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
    _lock: Lock,
    /// Whether finished parts outlive a run that fails.
    in_parts: bool,
    committed: bool,
}

impl OutputDirectory {
    /// Begins `path`, made by `tool` from `recipe`: the inputs and options the bytes depend on.
    ///
    /// Fails where `path` exists and was made otherwise, unless `force` is given; `force` replaces
    /// only what a tool of ours made.
    pub fn begin(path: &Path, force: bool, tool: &str, recipe: Value) -> Result<Begun> {
        let made_by = made_by(tool, recipe);
        if !force && read_made_by(path).as_ref() == Some(&made_by) {
            super::note(format_args!("{} is already made; --force makes it again", path.display()));
            return Ok(Begun::Done(path.to_path_buf()));
        }
        let output = Self::lock(path, force, made_by, false)?;
        output.clear()?;
        Ok(Begun::New(output))
    }

    /// Begins, or goes on with, work that is done in parts. What each part is made from becomes
    /// known on the way ([`OutputDirectory::finish_part`]), so whether a result that exists is the
    /// same one is for the caller to say, by [`parts_of`]; this only checks its recipe.
    pub fn begin_in_parts(path: &Path, force: bool, tool: &str, recipe: Value) -> Result<Begun> {
        let mut made_by = made_by(tool, recipe);
        let without_parts = |mut made_by: Value| {
            made_by["parts"] = json!({});
            made_by["results"] = json!({});
            made_by
        };
        made_by = without_parts(made_by);
        if !force && read_made_by(path).map(without_parts).as_ref() == Some(&made_by) {
            return Ok(Begun::Done(path.to_path_buf()));
        }
        let mut output = Self::lock(path, force, made_by, true)?;
        match read_made_by(&output.partial) {
            Some(found) if !force && without_parts(found.clone()) == output.made_by => output.made_by = found,
            _ => output.clear()?,
        }
        output.write_made_by()?;
        Ok(Begun::New(output))
    }

    fn lock(path: &Path, force: bool, made_by: Value, in_parts: bool) -> Result<Self> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::usage(format!("{} cannot be an output directory", path.display())))?;
        if path.symlink_metadata().is_ok() {
            let ours = read_made_by(path).is_some();
            if !ours && !is_empty_directory(path) {
                return Err(error!("{} exists and is not a result of these tools", path.display())
                    .hint("choose another name with -o"));
            }
            if ours && !force {
                return Err(made_otherwise(path));
            }
        }
        let mut partial_name = name.to_os_string();
        partial_name.push(".partial");
        let partial = path.with_file_name(partial_name);
        fs_err::create_dir_all(parent(&partial))?;
        let lock = Lock::of(&partial)?;
        let destination = path.to_path_buf();
        Ok(Self { destination, partial, made_by, _lock: lock, in_parts, committed: false })
    }

    fn clear(&self) -> Result<()> {
        if self.partial.symlink_metadata().is_ok() {
            fs_err::remove_dir_all(&self.partial)?;
        }
        Ok(fs_err::create_dir_all(&self.partial)?)
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Whether this file is there from an earlier run, and was made from the same.
    pub fn has_part(&self, file: &str, made_from: &Value) -> bool {
        self.made_by["parts"].get(file) == Some(made_from) && self.partial.join(file).exists()
    }

    /// Records that a file is whole and on disk, and what it was made from.
    pub fn finish_part(&mut self, file: &str, made_from: Value) -> Result<()> {
        self.made_by["parts"][file] = made_from;
        self.write_made_by()
    }

    /// Records something about the result that it does not depend on, such as a measure of it.
    pub fn record(&mut self, key: &str, value: Value) {
        self.made_by["results"][key] = value;
    }

    /// Fails where the disk has no room for `bytes` more.
    pub fn check_space(&self, bytes: u64) -> Result<()> {
        let Ok(found) = rustix::fs::statvfs(&self.partial) else { return Ok(()) };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if free < bytes {
            return Err(error!(
                "{} takes {}, the disk has {} free",
                self.destination.display(),
                Size(bytes),
                Size(free)
            )
            .hint("free some disk space, or choose another place with -o"));
        }
        Ok(())
    }

    fn write_made_by(&self) -> Result<()> {
        write_made_by(&self.partial, &self.made_by)
    }

    /// Syncs everything, gives the directory its final name and returns it.
    pub fn commit(mut self) -> Result<PathBuf> {
        self.write_made_by()?;
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

    fn has_parts(&self) -> bool {
        self.in_parts && self.made_by["parts"].as_object().is_some_and(|parts| !parts.is_empty())
    }
}

impl Drop for OutputDirectory {
    fn drop(&mut self) {
        if !self.committed && !self.has_parts() {
            let _ = fs_err::remove_dir_all(&self.partial);
        }
    }
}

/// What the parts of a finished directory were made from, by file name.
pub fn parts_of(path: &Path) -> serde_json::Map<String, Value> {
    match read_made_by(path).map(|mut made_by| made_by["parts"].take()) {
        Some(Value::Object(parts)) => parts,
        _ => serde_json::Map::new(),
    }
}

/// The error for a result that exists and was made from something else.
pub fn made_otherwise(path: &Path) -> Error {
    error!("{} exists and was made from something else", path.display())
        .hint("--force replaces it, -o chooses another name")
}

/// What made the result in `path`: the recipe its tool was given. `None` where `path` is not (yet)
/// a result of ours.
pub fn recipe_of(path: &Path) -> Option<Value> {
    read_made_by(path)?.get_mut("recipe").map(Value::take)
}

/// Marks `path`, which grew in place, as the complete result of `tool` and `recipe`.
pub fn mark_complete(path: &Path, tool: &str, recipe: &Value) -> Result<()> {
    sync_tree(path)?;
    write_made_by(path, &made_by(tool, recipe.clone()))
}

fn write_made_by(directory: &Path, made_by: &Value) -> Result<()> {
    let new = directory.join(format!("{MADE_BY}.new"));
    fs_err::write(&new, serde_json::to_string_pretty(made_by)? + "\n")?;
    sync(&new)?;
    Ok(fs_err::rename(&new, directory.join(MADE_BY))?)
}

/// What tells one version of a file from another, for recipes and parts.
pub fn identity(file: &Path) -> Result<Value> {
    let metadata = fs_err::metadata(file)?;
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok(json!({
        "size": metadata.len(),
        "modified": modified.map(|time| format!("{}.{:09}", time.as_secs(), time.subsec_nanos())),
    }))
}

fn made_by(tool: &str, recipe: Value) -> Value {
    json!({ "tool": tool, "version": env!("CARGO_PKG_VERSION"), "recipe": recipe })
}

fn read_made_by(path: &Path) -> Option<Value> {
    let mut text = String::new();
    fs_err::File::open(path.join(MADE_BY)).ok()?.take(1 << 20).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn is_empty_directory(path: &Path) -> bool {
    fs_err::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
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

    fn begin_in_parts(path: &Path, force: bool, recipe: &str) -> OutputDirectory {
        match OutputDirectory::begin_in_parts(path, force, "quantize", json!(recipe)).unwrap() {
            Begun::New(output) => output,
            Begun::Done(_) => panic!("already done"),
        }
    }

    #[test]
    fn finished_parts_outlive_a_run_that_fails() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("q");
        let mut output = begin_in_parts(&path, false, "a");
        fs_err::write(output.path().join("one"), "1").unwrap();
        output.finish_part("one", json!(1)).unwrap();
        fs_err::write(output.path().join("two"), "half").unwrap();
        drop(output);
        let output = begin_in_parts(&path, false, "a");
        assert!(output.has_part("one", &json!(1)));
        assert!(!output.has_part("one", &json!(2)), "made from something else");
        assert!(!output.has_part("two", &json!(1)), "never finished");
        let finished = output.commit().unwrap();
        assert_eq!(parts_of(&finished).len(), 1);
        let again = OutputDirectory::begin_in_parts(&path, false, "quantize", json!("a")).unwrap();
        assert!(matches!(again, Begun::Done(_)));
    }

    #[test]
    fn parts_of_other_work_are_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("q");
        for (recipe, force) in [("b", false), ("a", true)] {
            let mut output = begin_in_parts(&path, false, "a");
            fs_err::write(output.path().join("one"), "1").unwrap();
            output.finish_part("one", json!(1)).unwrap();
            drop(output);
            assert!(!begin_in_parts(&path, force, recipe).has_part("one", &json!(1)));
        }
        assert_eq!(fs_err::read_dir(parent.path()).unwrap().count(), 0, "no part, nothing to keep");
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
