//! `fetch.json`: what a complete directory holds and where it came from. It is written last.

use std::path::Path;

use common::{Result, cli, files};
use serde::{Deserialize, Serialize};

use crate::disk::digest::{Digest, hash_file};
use crate::disk::folder::Entry;
use crate::hub::RepositoryKind;
use crate::select::globs::Written;
use crate::select::names;

/// What a directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The name of the repository, `owner/name`.
    pub repository: String,
    /// Whether it is a model, a data set or a space.
    pub repo_type: RepositoryKind,
    /// The address of the hub that it came from.
    pub endpoint: String,
    /// The branch, tag or commit that was asked for.
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
pub(crate) struct RecordedFile {
    /// Name inside the directory.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// What its content hashes to; `None` where no server vouched for a hash.
    #[serde(flatten)]
    pub digest: Option<Digest>,
}

impl Record {
    /// The record at an entry, or `None` where there is none.
    pub(crate) fn read(entry: &Entry) -> Result<Option<Self>> {
        let record: Option<Self> = read_json(entry)?;
        record.iter().try_for_each(|record| record.check_names(entry))?;
        Ok(record)
    }

    /// The records at an entry.
    pub(crate) fn read_list(entry: &Entry) -> Result<Vec<Self>> {
        let records: Vec<Self> = read_json(entry)?.unwrap_or_default();
        records.iter().try_for_each(|record| record.check_names(entry))?;
        Ok(records)
    }

    /// Writes the record whole: beside, synced, renamed.
    pub(crate) fn write(&self, entry: &Entry, beside: &Entry) -> Result<()> {
        beside.write((serde_json::to_string_pretty(self)? + "\n").as_bytes())?;
        beside.rename_to(entry)
    }

    /// Writes several records.
    pub(crate) fn write_list(records: &[Self], entry: &Entry) -> Result<()> {
        entry.write((serde_json::to_string_pretty(records)? + "\n").as_bytes())
    }

    /// Checks that every name stays in the directory: the record may come from another program.
    fn check_names(&self, entry: &Entry) -> Result<()> {
        let mut names = self.files.iter().map(|file| file.path.as_str());
        names.try_for_each(names::check).map_err(|error| in_record(error, entry))
    }

    /// Whether this record and `other` answer the same request, whatever files each has.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        let request = |record: &Self| {
            (record.repository.clone(), record.repo_type, record.revision.clone(), record.selection.clone())
        };
        request(self) == request(other)
    }
}

fn read_json<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<Option<T>> {
    let Some(text) = entry.read(files::INDEX)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| in_record(error.into(), entry))
}

fn in_record(error: common::Error, entry: &Entry) -> common::Error {
    let path = entry.path();
    error.context(path.display()).hint(format_args!("rm {} and run fetch again", cli::quoted_path(&path)))
}

/// Whether the file at `path` is what a fetch put there.
pub(crate) fn is_unchanged(path: &Path, recorded: &RecordedFile) -> Result<bool> {
    let Ok(found) = fs_err::symlink_metadata(path) else { return Ok(false) };
    match &recorded.digest {
        _ if !found.is_file() || found.len() != recorded.size => Ok(false),
        Some(digest) => Ok(hash_file(path, digest)? == *digest),
        None => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::folder::Folder;
    use crate::select::names::RECORD;

    #[test]
    fn reads_back_what_it_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::make(directory.path()).unwrap();
        let entry = folder.entry(RECORD);
        assert_eq!(Record::read(&entry).unwrap(), None);
        let file = |path: &str, digest| RecordedFile { path: path.into(), size: 3, digest };
        let record = Record {
            repository: "a/b".into(),
            repo_type: RepositoryKind::Dataset,
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
        record.write(&entry, &folder.entry("beside")).unwrap();
        assert_eq!(Record::read(&entry).unwrap().unwrap(), record);
        let mut elsewhere = record;
        elsewhere.files[0].path = "../x".into();
        elsewhere.write(&entry, &folder.entry("beside")).unwrap();
        assert!(Record::read(&entry).unwrap_err().to_string().contains("`..`"));
        fs_err::write(entry.path(), "{").unwrap();
        assert!(Record::read(&entry).unwrap_err().hint_text().unwrap().contains("rm "));
    }
}
