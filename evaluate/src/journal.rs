//! What is scored so far, kept beside the report until it is whole, so that a run that was stopped
//! goes on where it was.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use common::{Context, Result};
use serde_json::Value;

use crate::report::Scored;

/// `NAME.partial` beside a report: its first line is the recipe, the others are subjects.
pub struct Journal {
    path: PathBuf,
    file: fs_err::File,
}

impl Journal {
    /// Opens the journal of `report`, with the subjects scored by the same `recipe` before. One of
    /// another recipe is begun anew.
    pub fn open(report: &Path, recipe: &Value) -> Result<(Self, Vec<Scored>)> {
        let mut name = report.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let path = report.with_file_name(name);
        let done = read(&path, recipe).unwrap_or_default();
        let mut file = fs_err::File::create(&path)?;
        writeln!(file, "{recipe}")?;
        let mut journal = Self { path, file };
        for scored in &done {
            journal.add(scored)?;
        }
        Ok((journal, done))
    }

    /// Adds a subject.
    pub fn add(&mut self, scored: &Scored) -> Result<()> {
        let line = serde_json::to_string(scored)? + "\n";
        self.file.write_all(line.as_bytes()).context("cannot keep what is scored")
    }

    /// Removes the journal: the report is whole.
    pub fn finish(self) -> Result<()> {
        Ok(fs_err::remove_file(&self.path)?)
    }
}

/// The whole lines of a journal of `recipe`; a line that a killed run cut off is left out.
fn read(path: &Path, recipe: &Value) -> Option<Vec<Scored>> {
    let mut lines = BufReader::new(fs_err::File::open(path).ok()?).lines();
    let header: Value = serde_json::from_str(&lines.next()?.ok()?).ok()?;
    if header != *recipe {
        return None;
    }
    Some(lines.map_while(|line| serde_json::from_str(&line.ok()?).ok()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scored(subject: &str) -> Scored {
        // A value whose shortest decimal form has to come back to the same bits.
        Scored {
            subject: subject.into(),
            logprobs: vec![[-0.1, -1.0e-7, -33.333_332, -2.0]],
            answers: vec![3],
        }
    }

    #[test]
    fn a_stopped_run_goes_on_and_another_recipe_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let report = directory.path().join("report.json");
        let (mut journal, done) = Journal::open(&report, &json!({"shots": 5})).unwrap();
        assert!(done.is_empty());
        journal.add(&scored("a")).unwrap();
        journal.add(&scored("b")).unwrap();
        drop(journal);

        let path = directory.path().join("report.json.partial");
        let whole = fs_err::read(&path).unwrap();
        fs_err::write(&path, &whole[..whole.len() - 5]).unwrap();
        let (journal, done) = Journal::open(&report, &json!({"shots": 5})).unwrap();
        assert_eq!(done, [scored("a")], "the line that was cut off is scored again");
        drop(journal);

        let (journal, done) = Journal::open(&report, &json!({"shots": 4})).unwrap();
        assert!(done.is_empty());
        journal.finish().unwrap();
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
    }
}
