//! A directory that appears whole or not at all.
//!
//! It is written in a scratch directory beside its final name, synced, and renamed; a result that it
//! replaces stays usable until then. Work is done in parts: finished parts survive a run that is stopped,
//! with a record of what each was made from, and the same command continues from there.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Destination;
use super::made_by::{self, MADE_BY, MadeBy};
use super::new_parents::NewParents;
use super::replace::{expect_replaceable, expect_replaceable_by_name, place, put_back};
use super::scratch::{self, Scratch};
use super::write::{self, remove, sync_tree};
use crate::Result;
use crate::disk::parent;
use crate::files::check_unchanged;

/// What [`OutputDirectory::begin`] found.
pub enum Begun {
    /// The work has to be done, into this directory.
    New(Box<OutputDirectory>),
    /// An earlier run has done the same work, with this result.
    Done(PathBuf),
}

/// A directory that gets its final name when it is complete.
pub struct OutputDirectory {
    destination: Destination,
    force: bool,
    made_by: MadeBy,
    scratch: Scratch,
    parents: NewParents,
}

impl OutputDirectory {
    /// Begins the directory that `tool` makes from `recipe`, which holds the inputs and options that its
    /// bytes depend on; or continues with the parts that an earlier run of the same recipe has finished.
    /// A finished result is recognised by its recipe only. What each part was made from becomes known
    /// during the work ([`OutputDirectory::finish_part`]), so the caller compares it ([`super::parts_of`]).
    ///
    /// Fails where the directory holds something else. `force` replaces a result of the same tool that was
    /// made from another recipe, and removes only files that the tool wrote.
    pub fn begin(destination: Destination, force: bool, tool: &str, recipe: Value) -> Result<Begun> {
        let mut made_by = MadeBy::unfinished(tool, recipe);
        let path = destination.path();
        expect_replaceable_by_name(&destination)?;
        if path.symlink_metadata().is_err() && scratch::is_beside(path) {
            put_back(&destination, tool)?;
        }
        if !force && MadeBy::read(path).is_some_and(|found| !found.unfinished && found.is_of_same(&made_by)) {
            Scratch::discard(&destination, tool);
            return Ok(Begun::Done(destination.named().to_path_buf()));
        }
        expect_replaceable(&destination, force, tool)?;
        let parents = NewParents::make(parent(path))?;
        let scratch = Scratch::beside(&destination, tool)?;
        let new = scratch.new_result();
        match MadeBy::read(&new).filter(|_| new.symlink_metadata().is_ok_and(|found| found.is_dir())) {
            Some(found) if !force && found.is_of_same(&made_by) => {
                made_by = MadeBy { unfinished: true, ..found };
                remove_all_but_parts(&new, &made_by)?;
            }
            _ => {
                remove(&new)?;
                fs_err::create_dir(&new)?;
            }
        }
        remove(&scratch.old_result())?;
        let mut output = Self { destination, force, made_by, scratch, parents };
        output.scratch.keeps = output.has_parts();
        output.write_made_by()?;
        Ok(Begun::New(Box::new(output)))
    }

    /// The directory to write into until [`OutputDirectory::commit`] gives it its name.
    pub fn path(&self) -> PathBuf {
        self.scratch.new_result()
    }

    /// Whether an earlier run has finished this file from the same `made_from`.
    pub fn has_part(&self, file: &str, made_from: &Value) -> bool {
        self.made_by.parts.get(file) == Some(made_from) && is_file(&self.path().join(file))
    }

    /// Records that a file is whole and on disk, and what it was made from.
    pub fn finish_part(&mut self, file: &str, made_from: Value) -> Result<()> {
        check_unchanged()?;
        self.made_by.parts.insert(file.to_owned(), made_from);
        self.write_made_by()?;
        self.scratch.keeps = true;
        Ok(())
    }

    /// Records a fact about the result, such as a measured error, that its bytes do not depend on.
    pub fn record(&mut self, key: &str, value: Value) {
        self.made_by.results.insert(key.to_owned(), value);
    }

    /// Fails where the disk has no room for `bytes` more.
    pub fn check_space(&self, bytes: u64) -> Result<()> {
        write::check_space(&self.path(), bytes, self.destination.named())
    }

    fn has_parts(&self) -> bool {
        !self.made_by.parts.is_empty()
    }

    fn write_made_by(&self) -> Result<()> {
        self.made_by.write(&self.path(), &self.scratch.new_file())
    }

    /// Syncs everything, gives the directory its final name and returns it.
    pub fn commit(mut self) -> Result<PathBuf> {
        self.made_by.unfinished = false;
        self.made_by.files = Some(made_by::list(&self.path())?);
        self.write_made_by()?;
        sync_tree(&self.path())?;
        // What a user has put there in the meantime is not lost.
        expect_replaceable(&self.destination, self.force, &self.made_by.tool)?;
        self.scratch.keeps = true;
        place(&self.scratch, self.destination.path())?;
        self.scratch.keeps = false;
        self.parents.keep();
        Ok(self.destination.named().to_path_buf())
    }
}

fn remove_all_but_parts(directory: &Path, made_by: &MadeBy) -> Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name != MADE_BY && !(made_by.parts.contains_key(name) && is_file(&path)) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_file())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::parts_of;
    use super::super::write::exchange;
    use super::*;

    fn begin(path: &Path, force: bool, recipe: &str) -> Result<Begun> {
        OutputDirectory::begin(Destination::directory(path, &[])?, force, "quantize", json!(recipe))
    }

    fn begin_new(path: &Path, force: bool, recipe: &str) -> OutputDirectory {
        match begin(path, force, recipe).unwrap() {
            Begun::New(output) => *output,
            Begun::Done(_) => panic!("already done"),
        }
    }

    fn make(path: &Path, force: bool, recipe: &str) {
        let output = begin_new(path, force, recipe);
        fs_err::write(output.path().join("config.json"), recipe).unwrap();
        output.commit().unwrap();
    }

    fn names(directory: &Path) -> Vec<String> {
        let names = fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn appears_whole_or_not_at_all() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new/q");
        let output = begin_new(&path, false, "a");
        fs_err::write(output.path().join("config.json"), "half").unwrap();
        assert!(!path.exists());
        drop(output);
        assert_eq!(names(parent.path()), [""; 0], "nothing is left");
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
        assert_eq!(names(parent.path()), ["q"]);
    }

    #[test]
    fn force_replaces_what_its_tool_wrote_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("q");
        let refused = |named: &str| {
            let Err(error) = begin(&path, true, "b") else { panic!("{named} is replaced") };
            assert!(error.to_string().contains(named), "{error}");
        };
        fs_err::create_dir(&path).unwrap();
        fs_err::write(path.join("thesis.tex"), "years of work").unwrap();
        refused("thesis.tex");
        fs_err::write(path.join("made-by.json"), "{}").unwrap();
        refused("made-by.json");
        fs_err::remove_dir_all(&path).unwrap();
        make(&path, false, "a");
        for put in ["thesis.tex", "sub"] {
            match put {
                "sub" => fs_err::create_dir(path.join(put)).unwrap(),
                _ => fs_err::write(path.join(put), "years of work").unwrap(),
            }
            refused(put);
            remove(&path.join(put)).unwrap();
        }
        fs_err::remove_file(path.join("config.json")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", path.join("config.json")).unwrap();
        refused("config.json");
        assert_eq!(names(parent.path()), ["q"]);
    }

    #[test]
    fn an_edited_list_reaches_nothing_outside() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("q");
        for name in ["../thesis.tex", "/etc/hostname", "a/../../b", "", ".", "a//b", "a/"] {
            fs_err::create_dir_all(&path).unwrap();
            let made_by = json!({"tool": "quantize", "version": "0", "recipe": 1, "files": {name: "file"}});
            fs_err::write(path.join("made-by.json"), made_by.to_string()).unwrap();
            assert!(begin(&path, true, "b").is_err(), "{name}");
            assert!(path.join("made-by.json").exists(), "{name}");
        }
    }

    #[test]
    fn results_of_earlier_versions_are_known() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("q");
        fs_err::create_dir(&path).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let made_by = json!({"tool": "quantize", "version": version, "recipe": "a", "results": {},
            "parts": {"model-00001-of-00002.safetensors": null}});
        fs_err::write(path.join("made-by.json"), made_by.to_string()).unwrap();
        for name in ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json"] {
            fs_err::write(path.join(name), "old").unwrap();
        }
        assert!(matches!(begin(&path, false, "a").unwrap(), Begun::Done(_)));
        fs_err::write(path.join("thesis.tex"), "years of work").unwrap();
        assert!(begin(&path, true, "b").is_err());
        fs_err::remove_file(path.join("thesis.tex")).unwrap();
        make(&path, true, "b");
        assert_eq!(names(&path), ["config.json", "made-by.json"]);
    }

    #[test]
    fn finished_parts_outlive_a_run_that_fails() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("q");
        let mut output = begin_new(&path, false, "a");
        fs_err::write(output.path().join("one"), "1").unwrap();
        output.finish_part("one", json!(1)).unwrap();
        fs_err::write(output.path().join("two"), "half").unwrap();
        drop(output);
        let output = begin_new(&path, false, "a");
        assert!(output.has_part("one", &json!(1)));
        assert!(!output.has_part("one", &json!(2)), "made from something else");
        assert!(!output.path().join("two").exists(), "never finished");
        let finished = output.commit().unwrap();
        assert_eq!(parts_of(&finished).len(), 1);
        assert!(matches!(begin(&path, false, "a").unwrap(), Begun::Done(_)));
        assert_eq!(names(parent.path()), ["q"]);
    }

    #[test]
    fn parts_of_other_work_are_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("q");
        for (recipe, force) in [("b", false), ("a", true)] {
            let mut output = begin_new(&path, false, "a");
            fs_err::write(output.path().join("one"), "1").unwrap();
            output.finish_part("one", json!(1)).unwrap();
            drop(output);
            assert!(!begin_new(&path, force, recipe).has_part("one", &json!(1)));
        }
        assert_eq!(names(parent.path()), [""; 0], "no part, nothing to keep");
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

    #[test]
    fn every_state_that_a_kill_leaves_while_a_result_is_replaced_is_left_again() {
        // What is on the disk after each rename, where names can be exchanged and where they cannot.
        type State = fn(&Path, &Path);
        let states: [(&str, State); 4] = [
            ("whole and not yet in its place", |_, _| {}),
            ("exchanged", |path, scratch| {
                assert!(exchange(&scratch.join("new"), path).unwrap());
            }),
            ("exchanged, and the old one half removed", |path, scratch| {
                assert!(exchange(&scratch.join("new"), path).unwrap());
                fs_err::remove_file(scratch.join("new/made-by.json")).unwrap();
            }),
            ("the old one aside, and the new one not yet in its place", |path, scratch| {
                fs_err::rename(path, scratch.join("old")).unwrap();
            }),
        ];
        for (state, arrange) in states {
            let parent = tempfile::tempdir().unwrap();
            let (path, scratch) = (parent.path().join("q"), parent.path().join(".q.qlora-tools"));
            make(&path, false, "a");
            let other = parent.path().join("other");
            make(&other, false, "b");
            fs_err::create_dir(&scratch).unwrap();
            fs_err::write(scratch.join("lock"), "qlora-tools quantize\n").unwrap();
            fs_err::rename(&other, scratch.join("new")).unwrap();
            arrange(&path, &scratch);
            // Without --force the old result, or the new one, is there and found.
            let found = MadeBy::read(&path).map_or(json!("a"), |found| found.recipe);
            assert!(
                matches!(begin(&path, false, found.as_str().unwrap()).unwrap(), Begun::Done(_)),
                "{state}"
            );
            make(&path, true, "b");
            assert_eq!(fs_err::read_to_string(path.join("config.json")).unwrap(), "b", "{state}");
            assert_eq!(names(parent.path()), ["q"], "{state}");
        }
    }
}
