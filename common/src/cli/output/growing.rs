//! A directory that grows in place while a tool works. Each file in it appears whole, and
//! `made-by.json` says from the beginning which tool owns it.
//!
//! A name is in the list of `made-by.json` before a file has it. So every file that a killed run has
//! left is in the list, and a file that is not in the list is not the tool's. Unfinished files lie in
//! `.qlora-tools` within the directory.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::made_by::{self, Contents, Kind, MADE_BY, MadeBy, contents};
use super::new_parents::NewParents;
use super::replace::place;
use super::scratch::Scratch;
use super::write::{self, remove, rename_new, sync_tree};
use super::{Destination, foreign};
use crate::disk::sync;
use crate::files::check_unchanged;
use crate::{Context, Result, bail, disk, error};

/// A directory to which a tool adds files and results.
#[derive(Debug)]
pub struct GrowingDirectory {
    named: PathBuf,
    path: PathBuf,
    made_by: MadeBy,
    /// Names of the files of an earlier result, which stays usable until this one is whole.
    earlier: Vec<String>,
    /// Whether the directory was empty or missing before this run.
    is_new: bool,
    /// Whether the directory survives a run that fails.
    keeps: bool,
    scratch: Scratch,
    parents: NewParents,
}

impl GrowingDirectory {
    /// Opens a directory for `tool`, which is made where it is missing, and keeps other processes out of
    /// it. Fails where it holds files that the tool did not write; where the tool `continues` its own work,
    /// such files are left alone.
    pub fn open(destination: &Destination, tool: &str, continues: bool) -> Result<Self> {
        let (named, path) = (destination.named(), destination.path());
        expect_ours(destination, tool, continues)?;
        let parents = NewParents::make(path)?;
        let scratch = Scratch::within(destination, tool)?;
        for left in [scratch.new_result(), scratch.old_result(), scratch.new_file()] {
            remove(&left)?;
        }
        let made_by = match contents(path, tool)? {
            Contents::Ours(found, _) => MadeBy { files: Some(found.files_in(path)), ..*found },
            _ => MadeBy {
                files: Some(made_by::earlier_files(path, tool, &serde_json::Map::new())),
                ..MadeBy::unfinished(tool, Value::Null)
            },
        };
        let is_new = made_by.files.as_ref().is_none_or(|files| files.is_empty());
        let (named, path) = (named.to_path_buf(), path.to_path_buf());
        Ok(Self { named, path, made_by, earlier: Vec::new(), is_new, keeps: !is_new, scratch, parents })
    }

    /// Removes what a process that died after finishing a directory has left in it.
    pub fn discard(destination: &Destination, tool: &str) {
        Scratch::discard_within(destination, tool);
    }

    /// Begins the work of `recipe` anew. Everything that the tool has in the directory is removed, except
    /// files whose names are `usable`, which stay until they are replaced or the work is finished.
    pub fn begin(&mut self, recipe: Value, usable: impl Fn(&str) -> bool) -> Result<()> {
        let files = self.made_by.files.take().unwrap_or_default();
        self.made_by =
            MadeBy { files: Some(files.clone()), ..MadeBy::unfinished(&self.made_by.tool, recipe) };
        self.write_made_by()?;
        for (name, kind) in files {
            match kind {
                Kind::File if usable(&name) => self.earlier.push(name),
                Kind::File => {
                    made_by::remove_file(&self.path, &name)?;
                    self.forget(&name);
                }
                Kind::Result => self.remove_result(&name)?,
            }
        }
        self.write_made_by()
    }

    /// Continues the work of `recipe`: everything in the directory stays.
    pub fn resume(&mut self, recipe: Value) -> Result<()> {
        let files = self.made_by.files.take();
        self.made_by = MadeBy { files, ..MadeBy::unfinished(&self.made_by.tool, recipe) };
        self.write_made_by()
    }

    /// From now on the directory outlives a run that fails.
    pub fn keep(&mut self) {
        self.keeps = true;
        self.parents.keep();
    }

    /// Writes a file whole or not at all, replacing an earlier one of the tool.
    pub fn write(&mut self, name: &str, text: &str) -> Result<()> {
        self.fill(name, |path| {
            let mut file = write::create_new(path)?;
            file.write_all(text.as_bytes()).with_context(|| format!("cannot write {name}"))
        })
    }

    /// Makes a file by `fill`, which gets a path where nothing exists yet.
    pub fn fill(&mut self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.claim(&[(name, Kind::File)])?;
        let new = self.scratch.new_file();
        remove(&new)?;
        fill(&new)?;
        sync(&new)?;
        fs_err::rename(new, self.path.join(name))?;
        Ok(())
    }

    /// Writes a file and opens it to append lines.
    pub fn append(&mut self, name: &str, text: &str) -> Result<File> {
        self.write(name, text)?;
        let path = self.path.join(name);
        write::no_follow().append(true).open(&path).with_context(|| path.display().to_string())
    }

    /// The name of `folder` relative to the directory; `None` where it lies elsewhere.
    pub fn within(&self, folder: &Path) -> Option<String> {
        let relative = |root: &Path| Some(folder.strip_prefix(root).ok()?.to_str()?.to_owned());
        relative(&self.named).or_else(|| relative(&self.path)).filter(|name| made_by::is_within(name))
    }

    /// Lists a file that other code is about to make in the directory, and returns its path.
    pub fn announce(&mut self, name: &str) -> Result<PathBuf> {
        self.claim(&[(name, Kind::File)])?;
        Ok(self.path.join(name))
    }

    /// Makes an empty directory, the stage, in which files or a result are written before they are placed.
    pub fn stage(&self) -> Result<PathBuf> {
        let stage = self.scratch.new_result();
        remove(&stage)?;
        fs_err::create_dir(&stage)?;
        Ok(stage)
    }

    /// Moves the files of the stage to their names in the directory.
    pub fn place_files(&mut self) -> Result<()> {
        check_unchanged()?;
        let stage = self.scratch.new_result();
        sync_tree(&stage)?;
        let files = made_by::list(&stage)?;
        self.claim(&files.iter().map(|(name, kind)| (name.as_str(), *kind)).collect::<Vec<_>>())?;
        for name in files.keys() {
            let to = self.path.join(name);
            if !made_by::has_plain_parents(&self.path, name) {
                bail!(Exists, "{} would lie behind a link or a file", to.display());
            }
            fs_err::create_dir_all(disk::parent(&to))?;
            fs_err::rename(stage.join(name), to)?;
        }
        sync(&self.path)?;
        remove(&stage)
    }

    /// Moves the stage to the result `name` in the directory, made from `recipe`, and returns its path.
    pub fn place_result(&mut self, name: &str, recipe: Value) -> Result<PathBuf> {
        let stage = self.scratch.new_result();
        let files = Some(made_by::list(&stage)?);
        let made_by = MadeBy { files, unfinished: false, ..MadeBy::unfinished(&self.made_by.tool, recipe) };
        made_by.write(&stage, &self.scratch.new_file())?;
        sync_tree(&stage)?;
        self.claim(&[(name, Kind::Result)])?;
        place(&self.scratch, &self.path.join(name))?;
        self.keep();
        remove(&stage)?;
        remove(&self.scratch.old_result())?;
        Ok(self.named.join(name))
    }

    /// Removes a result in one step, so that there is never a part of one under its name.
    pub fn remove_result(&mut self, name: &str) -> Result<()> {
        let (path, old) = (self.path.join(name), self.scratch.old_result());
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            remove(&old)?;
            rename_new(&path, &old)?;
            remove(&old)?;
        }
        self.forget(name);
        self.write_made_by()
    }

    /// Marks the directory as the complete result of its recipe.
    pub fn finish(mut self) -> Result<()> {
        check_unchanged()?;
        for name in std::mem::take(&mut self.earlier) {
            made_by::remove_file(&self.path, &name)?;
            self.forget(&name);
        }
        for name in self.made_by.files.iter().flatten().map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            if self.path.join(&name).symlink_metadata().is_err() {
                self.forget(&name);
            }
        }
        self.keep();
        sync_tree(&self.path)?;
        self.made_by.unfinished = false;
        self.write_made_by()?;
        sync(&self.path)
    }

    /// Puts names into the list before files get them. Fails where an unlisted file has one of them.
    fn claim(&mut self, names: &[(&str, Kind)]) -> Result<()> {
        let mut is_changed = false;
        for (name, kind) in names {
            self.earlier.retain(|earlier| earlier != name);
            if self.made_by.files.as_ref().is_some_and(|files| files.get(*name) == Some(kind)) {
                continue;
            }
            let path = self.path.join(name);
            if path.symlink_metadata().is_ok() || !made_by::has_plain_parents(&self.path, name) {
                return Err(error!("{} exists and is not of this run", self.named.join(name).display())
                    .hint("move it away, and run the same command again"));
            }
            self.made_by.files.get_or_insert_default().insert((*name).to_owned(), *kind);
            is_changed = true;
        }
        if is_changed { self.write_made_by() } else { Ok(()) }
    }

    fn forget(&mut self, name: &str) {
        self.made_by.files.get_or_insert_default().remove(name);
    }

    fn write_made_by(&self) -> Result<()> {
        self.made_by.write(&self.path, &self.scratch.new_file())
    }
}

impl Drop for GrowingDirectory {
    fn drop(&mut self) {
        if self.is_new && !self.keeps {
            for name in self.made_by.files.iter().flatten().map(|(name, _)| name) {
                let _ = made_by::remove_file(&self.path, name);
            }
            let _ = std::fs::remove_file(self.path.join(MADE_BY));
        }
    }
}

/// Fails where a directory that will grow holds files that `tool` did not write.
pub fn expect_ours(destination: &Destination, tool: &str, continues: bool) -> Result<()> {
    let path = destination.path();
    match contents(path, tool)? {
        Contents::Nothing => Ok(()),
        // Of a run of an earlier version, which marked its directory only at its end.
        Contents::Foreign(_) if is_unmarked_run(path, tool, continues) => Ok(()),
        Contents::Ours(_, None) => Ok(()),
        Contents::Ours(_, Some(_)) if continues => Ok(()),
        Contents::Ours(_, Some(entry)) | Contents::Foreign(entry) => {
            Err(foreign(destination.named(), &entry, tool))
        }
    }
}

/// Whether a directory without a record holds results of `tool` and, unless it is only continued,
/// nothing that the tool is not known to have written.
fn is_unmarked_run(directory: &Path, tool: &str, continues: bool) -> bool {
    let files = made_by::earlier_files(directory, tool, &serde_json::Map::new());
    let has_results = files.values().any(|kind| *kind == Kind::Result);
    let has_record = directory.join(MADE_BY).symlink_metadata().is_ok();
    let is_known = || made_by::unlisted(directory, tool, "", Some(&files)).is_ok_and(|other| other.is_none());
    has_results && !has_record && (continues || is_known())
}
