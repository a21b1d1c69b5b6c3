//! `fetch.json`: what a complete directory holds and where it came from. Written last.

use std::path::Path;

use common::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::select::Written;
use crate::source::Kind;
use crate::verify::Digest;

/// The name of the record inside the directory.
pub const FILE: &str = "fetch.json";

/// What a directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `owner/name`.
    pub repository: String,
    /// Model or data set.
    pub repo_type: Kind,
    /// The hub it came from.
    pub endpoint: String,
    /// Branch, tag or commit as asked for.
    pub revision: String,
    /// The commit that the revision named.
    pub commit: String,
    /// Which files were asked for.
    #[serde(flatten)]
    pub selection: Written,
    /// All files, in the order of the repository.
    pub files: Vec<RecordedFile>,
}

/// One complete file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFile {
    /// Name inside the directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// What its content hashes to; absent where no server vouched for any hash.
    #[serde(flatten)]
    pub digest: Option<Digest>,
}

impl Record {
    /// The record at `path`, or `None` where there is none.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs_err::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        serde_json::from_slice(&text)
            .with_context(|| path.display())
            .map_err(|error| error.hint(format_args!("delete {} and run fetch again", path.display())))
            .map(Some)
    }

    /// Writes the record whole: beside, synced, renamed.
    pub fn write(&self, path: &Path, beside: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs_err::write(beside, text)?;
        fs_err::File::open(beside)?.sync_all()?;
        fs_err::rename(beside, path)?;
        Ok(())
    }

    /// Whether this answers the same request as `other`, whatever each found.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        let request = |record: &Self| {
            (record.repository.clone(), record.repo_type, record.revision.clone(), record.selection.clone())
        };
        request(self) == request(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert_eq!(Record::read(&path).unwrap(), None);
        let file = |path: &str, digest| RecordedFile { path: path.into(), size: 3, digest };
        let record = Record {
            repository: "a/b".into(),
            repo_type: Kind::Dataset,
            endpoint: "https://hub.example/".into(),
            revision: "main".into(),
            commit: "c".repeat(40),
            selection: Written { include: vec!["*.json".into()], exclude: vec![] },
            files: vec![
                file("x", Digest::sha256(&"a".repeat(64))),
                file("y", Digest::git_sha1(&"b".repeat(40))),
                file("z", None),
            ],
        };
        record.write(&path, &directory.path().join("beside")).unwrap();
        assert_eq!(Record::read(&path).unwrap().unwrap(), record);
        fs_err::write(&path, "{").unwrap();
        assert!(Record::read(&path).unwrap_err().hint_text().unwrap().contains("delete"));
    }
}
