//! A file that the user has named, such as a report: written whole or not at all, never over an existing
//! file without `--force`, and never through a link.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::scratch::Scratch;
use super::write::{self, remove, rename_new};
use super::{Destination, scratch};
use crate::disk::{parent, sync};
use crate::files::check_unchanged;
use crate::{Context, Result, error};

/// A file that gets its name when it is complete. Dropping it removes everything that it needed until
/// then.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    may_replace: bool,
    scratch: Scratch,
}

impl OutputFile {
    /// Begins the file before the work that fills it, so that a name that is taken or a place that cannot
    /// be written is reported early. No other process can begin the same file.
    pub fn begin(destination: &Destination, force: bool, tool: &str) -> Result<Self> {
        let path = destination.path();
        let exists =
            || error!("{} exists", path.display()).hint("--force replaces it, or choose another name");
        let kind = path.symlink_metadata();
        if kind.as_ref().is_ok_and(|found| !found.is_file()) {
            return Err(
                error!("{} exists and is not a regular file", path.display()).hint("choose another name")
            );
        }
        if kind.is_ok() && !force && !scratch::is_beside(path) {
            return Err(exists());
        }
        let scratch = Scratch::beside(destination, tool)?;
        // What a run that was killed has put there is no more than the beginning of this one.
        let is_of_killed = is_placed(&scratch, path);
        if path.symlink_metadata().is_ok() && !force && !is_of_killed {
            return Err(exists());
        }
        let mut file = Self { path: path.to_path_buf(), may_replace: force || is_of_killed, scratch };
        file.keep_journal(file.journal().symlink_metadata().is_ok_and(|found| found.is_file()));
        Ok(file)
    }

    /// The path of the journal, in which a tool keeps the work it has finished so far.
    pub fn journal(&self) -> PathBuf {
        self.scratch.journal()
    }

    /// A new directory for files that are of use until the file has been finished or dropped.
    pub fn folder(&self) -> Result<PathBuf> {
        let folder = self.scratch.new_result();
        remove(&folder)?;
        fs_err::create_dir(&folder)?;
        Ok(folder)
    }

    /// Sets whether the journal is kept when the run is stopped, so that the next run continues from it.
    pub fn keep_journal(&mut self, is_of_use: bool) {
        self.scratch.keeps = is_of_use;
    }

    /// Writes the file and gives it its name.
    pub fn write(&mut self, text: &str) -> Result<()> {
        self.fill(|path| {
            let mut file = write::create_new(path)?;
            Ok(file.write_all(text.as_bytes())?)
        })?;
        self.place()
    }

    /// Makes the file's content by `fill`, which gets a path where nothing exists yet.
    pub fn fill(&mut self, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let new = self.scratch.new_file();
        remove(&new)?;
        let named = || format!("cannot write {}", self.path.display());
        fill(&new).and_then(|()| sync(&new)).with_context(named)
    }

    /// Gives the file its name.
    pub fn place(&mut self) -> Result<()> {
        check_unchanged()?;
        let new = self.scratch.new_file();
        self.note_placed(&new).with_context(|| self.path.display().to_string())?;
        match self.path.symlink_metadata() {
            Ok(found) if !self.may_replace || !found.is_file() => {
                return Err(error!("{} has come to exist", self.path.display()).hint("choose another name"));
            }
            Ok(_) => fs_err::rename(&new, &self.path)?,
            Err(_) => rename_new(&new, &self.path)?,
        }
        sync(parent(&self.path))
    }

    /// Ends the work on the file, and removes the scratch directory beside it.
    pub fn finish(mut self) {
        self.keep_journal(false);
    }

    /// Removes what a run that was killed after it had placed the file has left beside it.
    pub fn discard(file: &Destination, tool: &str) {
        Scratch::discard(file, tool);
    }

    /// Notes which file is about to get the name, so that a later run recognises it.
    fn note_placed(&self, new: &Path) -> Result<()> {
        let placed = self.scratch.placed();
        remove(&placed)?;
        let mut file = write::create_new(&placed)?;
        Ok(file.write_all(identity(new)?.as_bytes())?)
    }
}

/// Whether the file at `path` is the one that a run with this scratch directory has put there.
fn is_placed(scratch: &Scratch, path: &Path) -> bool {
    let noted = crate::files::read_text(&scratch.placed(), 256);
    noted.is_ok_and(|noted| identity(path).is_ok_and(|found| found == noted))
}

fn identity(path: &Path) -> Result<String> {
    let found = fs_err::symlink_metadata(path)?;
    Ok(format!("{} {}", found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn begin(path: &Path, force: bool) -> Result<OutputFile> {
        OutputFile::begin(&Destination::file(path, &[])?, force, "test")
    }

    fn write(path: &Path, force: bool, text: &str) -> Result<()> {
        let mut file = begin(path, force)?;
        file.write(text)?;
        file.finish();
        Ok(())
    }

    #[test]
    fn what_is_there_is_replaced_only_with_force_and_never_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        write(&path, false, "one").unwrap();
        assert!(write(&path, false, "two").unwrap_err().to_string().contains("exists"));
        write(&path, true, "two").unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "two");
        let link = folder.path().join("link.json");
        for target in ["r.json", "nothing", "/dev/null"] {
            symlink(target, &link).unwrap();
            assert!(write(&link, true, "three").is_err(), "{target}");
            fs_err::remove_file(&link).unwrap();
        }
        assert!(write(folder.path(), true, "three").is_err());
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1, "nothing is left");
        assert!(write(&folder.path().join("no/r.json"), false, "x").unwrap_err().hint_text().is_some());
    }

    #[test]
    fn a_file_of_a_run_that_was_killed_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        let mut file = begin(&path, false).unwrap();
        file.write("half of the work").unwrap();
        // A kill leaves everything as it is.
        file.scratch.keeps = true;
        drop(file);
        write(&path, false, "all").unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "all");
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_users_file_beside_what_a_kill_left_is_not_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        let mut file = begin(&path, false).unwrap();
        file.scratch.keeps = true;
        drop(file);
        fs_err::write(&path, "mine").unwrap();
        assert!(write(&path, false, "all").is_err());
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn two_writers_exclude_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        let first = begin(&path, false).unwrap();
        assert!(begin(&path, false).unwrap_err().to_string().contains("another process"));
        drop(first);
        assert!(begin(&path, false).is_ok());
    }
}
