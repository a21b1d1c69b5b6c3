//! The journal of what is scored so far, kept beside the report until that is whole, so that a run that was
//! stopped continues where it was.

use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

use common::checkpoint::check_unchanged;
use common::cli::{self, OutputFile};
use common::{Context, Result};
use serde_json::Value;

use crate::scored::Scored;

/// A file whose first line is the recipe; the others are subjects.
pub struct Journal {
    file: std::fs::File,
}

impl Journal {
    /// Opens the journal of `report`, and returns the subjects in it. A journal of another `recipe` is begun
    /// anew.
    pub fn open(report: &mut OutputFile, recipe: &Value) -> Result<(Self, Vec<Scored>)> {
        let path = report.journal();
        let (done, whole) = read(&path, recipe).unwrap_or_default();
        report.keep_journal(!done.is_empty());
        let open = || -> std::io::Result<std::fs::File> {
            let mut file = cli::no_follow().write(true).create(true).truncate(false).open(&path)?;
            // A line that a killed run cut off is scored again.
            file.set_len(whole)?;
            file.seek(SeekFrom::End(0))?;
            if whole == 0 {
                writeln!(file, "{recipe}")?;
            }
            Ok(file)
        };
        let file = open().with_context(|| path.display().to_string())?;
        Ok((Self { file }, done))
    }

    /// Adds a scored subject to the journal of `report`.
    pub fn add(&mut self, report: &mut OutputFile, scored: &Scored) -> Result<()> {
        check_unchanged()?;
        let line = serde_json::to_string(scored)? + "\n";
        self.file.write_all(line.as_bytes()).context("cannot keep what is scored")?;
        report.keep_journal(true);
        Ok(())
    }
}

/// Reads the whole lines of a journal of `recipe`, and returns their length in bytes besides.
fn read(path: &Path, recipe: &Value) -> Option<(Vec<Scored>, u64)> {
    let mut file = BufReader::new(common::files::open(path).ok()?);
    let mut line = String::new();
    let mut whole = file.read_line(&mut line).ok()? as u64;
    let header: Value = serde_json::from_str(&line).ok()?;
    if header != *recipe || !line.ends_with('\n') {
        return None;
    }
    let mut done = Vec::new();
    loop {
        line.clear();
        let length = file.read_line(&mut line).ok()? as u64;
        match serde_json::from_str(&line) {
            Ok(scored) if line.ends_with('\n') => done.push(scored),
            _ => return Some((done, whole)),
        }
        whole += length;
    }
}

#[cfg(test)]
mod tests {
    use common::cli::Destination;
    use serde_json::json;

    use super::*;

    fn scored(subject: &str) -> Scored {
        // A value whose shortest decimal form has to come back to the same bits.
        Scored {
            subject: subject.into(),
            logprobs: vec![vec![-0.1, -1.0e-7, -33.333_332, -2.0]],
            answers: vec![3],
        }
    }

    #[test]
    fn a_stopped_run_continues_and_another_recipe_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        let begin = || OutputFile::begin(&Destination::file(&path, &[]).unwrap(), false, "test").unwrap();
        let mut report = begin();
        let (mut journal, done) = Journal::open(&mut report, &json!({"shots": 5})).unwrap();
        assert!(done.is_empty());
        journal.add(&mut report, &scored("a")).unwrap();
        journal.add(&mut report, &scored("b")).unwrap();
        let path = report.journal();
        drop((report, journal));

        let whole = fs_err::read(&path).unwrap();
        fs_err::write(&path, &whole[..whole.len() - 5]).unwrap();
        let mut report = begin();
        let (journal, done) = Journal::open(&mut report, &json!({"shots": 5})).unwrap();
        assert_eq!(done, [scored("a")], "the line that was cut off is scored again");
        drop((report, journal));

        let mut report = begin();
        let (_, done) = Journal::open(&mut report, &json!({"shots": 4})).unwrap();
        assert!(done.is_empty());
        report.finish();
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
    }
}
