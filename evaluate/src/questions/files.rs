//! Files in a directory or in an archive, by names with `/`.

use std::path::{Path, PathBuf};

use common::{Context, Result, bail, error, files};

use super::archive::{Archive, ENDINGS};

/// Most levels of folders that are looked through below a directory of questions.
const DEPTH: usize = 4;
/// Most files below a directory; one that holds more is not a directory of questions.
const MOST_FILES: usize = 100_000;
/// Most bytes of a file of questions.
const MOST_BYTES: u64 = 128 << 20;

/// The files of a directory or of an archive.
pub(super) enum Files {
    Directory(PathBuf, Vec<String>),
    Archive(PathBuf, Archive),
}

impl Files {
    /// Finds the files below a directory, or in an archive.
    pub(super) fn open(data: &Path) -> Result<Self> {
        let metadata = fs_err::metadata(data).hint("--data names a directory or an archive of questions")?;
        if !metadata.is_dir() {
            return Ok(Self::Archive(data.to_path_buf(), Archive::open(data)?));
        }
        let mut names = Vec::new();
        collect(data, "", DEPTH, &mut names)?;
        names.sort();
        Ok(Self::Directory(data.to_path_buf(), names))
    }

    /// Returns the path of the directory or the archive.
    pub(super) fn data(&self) -> &Path {
        match self {
            Self::Directory(path, _) | Self::Archive(path, _) => path,
        }
    }

    /// Returns the names of the files.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Directory(_, names) => names.clone(),
            Self::Archive(_, archive) => archive.names().map(str::to_owned).collect(),
        }
    }

    /// Returns what messages call a file.
    pub(super) fn place(&self, name: &str) -> String {
        match self {
            Self::Directory(root, _) => root.join(name).display().to_string(),
            Self::Archive(_, archive) => archive.place(name),
        }
    }

    /// Reads the bytes of a file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        match self {
            Self::Directory(root, _) => files::read(&root.join(name), MOST_BYTES),
            Self::Archive(_, archive) => archive.read(name),
        }
    }

    /// Calls `read` with a path of a file; a file in an archive is unpacked for it.
    pub(super) fn with_path<T>(&self, name: &str, read: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        match self {
            Self::Directory(root, _) => read(&root.join(name)),
            Self::Archive(_, archive) => {
                let unpacked = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
                fs_err::write(unpacked.path(), archive.read(name)?)?;
                read(unpacked.path())
            }
        }
    }

    /// Returns the archive in a directory, if there is one; several are an error.
    pub(super) fn archive(&self) -> Result<Option<PathBuf>> {
        let Self::Directory(root, names) = self else { return Ok(None) };
        let is_archive = |name: &&String| ENDINGS.iter().any(|ending| name.ends_with(ending));
        let mut archives = names.iter().filter(is_archive);
        match (archives.next(), archives.next()) {
            (Some(first), Some(second)) => {
                bail!(Usage, "{}: {first} and {second} in it; name one of them", root.display())
            }
            (first, _) => Ok(first.map(|name| root.join(name))),
        }
    }
}

/// Collects the names of files below `folder` of `root`, through `depth` levels of folders.
fn collect(root: &Path, folder: &str, depth: usize, names: &mut Vec<String>) -> Result<()> {
    for entry in fs_err::read_dir(root.join(folder))? {
        common::cli::check_interrupted()?;
        if names.len() == MOST_FILES {
            return Err(error!("{} holds more than {MOST_FILES} files", root.display())
                .hint("--data names a directory of questions alone"));
        }
        let entry = entry?.file_name().to_string_lossy().into_owned();
        let name = if folder.is_empty() { entry } else { format!("{folder}/{entry}") };
        let path = root.join(&name);
        if path.is_file() {
            names.push(name);
        } else if depth > 0 && path.is_dir() {
            collect(root, &name, depth - 1, names)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_names_below_their_directory() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "data/test/a.csv", "1/2/3/4/5/too deep"] {
            fs_err::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            fs_err::write(folder.path().join(name), name).unwrap();
        }
        let files = Files::open(folder.path()).unwrap();
        assert_eq!(files.names(), ["b", "data/test/a.csv"]);
        assert_eq!(files.read("data/test/a.csv").unwrap(), b"data/test/a.csv");
        assert_eq!(files.archive().unwrap(), None);
        fs_err::write(folder.path().join("data/x.tar.gz"), "").unwrap();
        let archive = Files::open(folder.path()).unwrap().archive().unwrap();
        assert_eq!(archive, Some(folder.path().join("data/x.tar.gz")));
        fs_err::write(folder.path().join("y.zip"), "").unwrap();
        let error = Files::open(folder.path()).unwrap().archive().unwrap_err();
        assert!(error.to_string().contains("data/x.tar.gz and y.zip in it"), "{error}");
    }
}
