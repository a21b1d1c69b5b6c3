//! Paths into a tool: arguments, or lines on stdin.
//!
//! A line that names a directory means the whole directory; lines that name files mean those files, as
//! they arrive. The line of the directory comes last and says that it is complete, so a stream of files
//! that ends without one came from a tool that failed. A name that is not a path may be a model in the
//! hub's cache.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use crate::{Error, Result, error, hub_cache};

/// One path that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A directory that is complete.
    Directory(PathBuf),
    /// A file that is complete, of a directory that is still growing.
    File(PathBuf),
}

/// The paths that a tool is called with, in order, each as soon as it arrives.
pub struct Inputs {
    source: PathSource,
    /// The last file that arrived and is not yet covered by its directory's line.
    open: Option<PathBuf>,
    any: bool,
}

enum PathSource {
    Arguments(std::vec::IntoIter<PathBuf>),
    Lines(Box<dyn Iterator<Item = std::io::Result<String>>>),
}

/// Whether the paths of a tool come on stdin: where its arguments name none, or only `-`.
pub(crate) fn from_stdin(arguments: &[PathBuf]) -> bool {
    arguments.is_empty() || arguments == [Path::new("-")]
}

/// The paths given as arguments, or on stdin where there are none or the only one is `-`.
pub fn inputs(arguments: &[PathBuf]) -> Result<Inputs> {
    if !from_stdin(arguments) {
        return Ok(Inputs::from_arguments(arguments.to_vec()));
    }
    if arguments.is_empty() && std::io::stdin().is_terminal() {
        return Err(Error::usage("no input given").hint("name a directory, or pipe its path in"));
    }
    Ok(Inputs::from_lines(std::io::BufReader::new(std::io::stdin())))
}

/// Whether a file is YAML by its name.
pub fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// Whether a file is a model in GGUF by its name.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf")
}

impl Inputs {
    /// Paths from the command line.
    pub fn from_arguments(paths: Vec<PathBuf>) -> Self {
        Self { source: PathSource::Arguments(paths.into_iter()), open: None, any: false }
    }

    /// Paths from lines of text; empty lines are skipped.
    pub fn from_lines(reader: impl BufRead + 'static) -> Self {
        Self { source: PathSource::Lines(Box::new(reader.lines())), open: None, any: false }
    }

    /// All directories, for tools that need the whole of each, and the YAML files that may stand in the
    /// place of one. Other files are passed over.
    pub fn directories_or_yaml(self) -> Result<Vec<PathBuf>> {
        let mut directories = Vec::new();
        for input in self {
            match input? {
                Input::Directory(path) => directories.push(path),
                Input::File(path) if is_yaml(&path) => directories.push(path),
                Input::File(_) => {}
            }
        }
        Ok(directories)
    }

    /// All directories, the YAML files that may stand in the place of one, and the GGUF files that are named by
    /// themselves. Other files are passed over.
    pub fn models(self) -> Result<Vec<PathBuf>> {
        let are_streamed = matches!(self.source, PathSource::Lines(_));
        let mut models: Vec<PathBuf> = Vec::new();
        for input in self {
            match input? {
                Input::Directory(path) => {
                    // The files of a directory have arrived before it.
                    models.retain(|model| !(are_streamed && is_gguf(model) && model.starts_with(&path)));
                    models.push(path);
                }
                Input::File(path) if is_yaml(&path) || is_gguf(&path) => models.push(path),
                Input::File(_) => {}
            }
        }
        Ok(models)
    }

    /// The one directory of a tool that takes no more than one.
    pub fn directory(self) -> Result<PathBuf> {
        only(self.directories_or_yaml()?)
    }

    /// The one model of a tool that takes no more than one: a directory, a YAML file or a GGUF file.
    pub fn model(self) -> Result<PathBuf> {
        only(self.models()?)
    }

    fn next_path(&mut self) -> Option<Result<PathBuf>> {
        match &mut self.source {
            PathSource::Arguments(paths) => paths.next().map(Ok),
            PathSource::Lines(lines) => loop {
                match lines.next()? {
                    Ok(line) if line.trim_end_matches('\r').is_empty() => {}
                    Ok(line) => return Some(Ok(PathBuf::from(line.trim_end_matches('\r')))),
                    Err(error) => {
                        return Some(Err(Error::from(error).context("cannot read paths from stdin")));
                    }
                }
            },
        }
    }

    /// The error that the end of the input stands for, where the stream ended too early.
    fn end(&mut self) -> Option<Result<Input>> {
        let PathSource::Lines(_) = self.source else { return None };
        if let Some(file) = self.open.take() {
            return Some(Err(error!("upstream ended after {} without naming its directory", file.display())
                .hint("the command before the pipe failed; see its message, then run the line again")));
        }
        if !std::mem::replace(&mut self.any, true) {
            return Some(Err(error!("nothing arrived on standard input")
                .hint("the command before the pipe failed; see its message, then run the line again")));
        }
        None
    }
}

/// The one path of a list.
fn only(mut paths: Vec<PathBuf>) -> Result<PathBuf> {
    match (paths.pop(), paths.is_empty()) {
        (Some(path), true) => Ok(path),
        (None, _) => {
            Err(error!("no directory among the inputs").hint("name the directory that holds the file"))
        }
        (Some(second), false) => {
            Err(Error::usage(format!("one directory expected, another found: {}", second.display())))
        }
    }
}

impl Iterator for Inputs {
    type Item = Result<Input>;

    fn next(&mut self) -> Option<Result<Input>> {
        let path = match self.next_path() {
            Some(Ok(path)) => path,
            Some(Err(error)) => return Some(Err(error)),
            None => return self.end(),
        };
        self.any = true;
        let named = path;
        let path = hub_cache::resolve(&named);
        if path != named {
            super::note(format_args!("{} is {}", named.display(), path.display()));
        }
        let kind = match fs_err::metadata(&path) {
            Ok(kind) => kind,
            Err(error) => {
                // What is not on disk may be a repository the user expects to be downloaded.
                let hint = format!("fetch {} downloads a model of that name", super::quoted_path(&path));
                return Some(Err(Error::from(error).hint(hint)));
            }
        };
        Some(Ok(if kind.is_dir() {
            if self.open.as_deref().is_some_and(|file| file.starts_with(&path)) {
                self.open = None;
            }
            Input::Directory(path)
        } else {
            // A GGUF file is a model of its own.
            if matches!(self.source, PathSource::Lines(_)) && !is_gguf(&path) {
                self.open = Some(path.clone());
            }
            Input::File(path)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: String) -> Inputs {
        Inputs::from_lines(std::io::Cursor::new(text))
    }

    #[test]
    fn files_then_their_directory() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        std::fs::write(&file, "{}").unwrap();
        let text = format!("{}\r\n\n{}\n", file.display(), directory.path().display());
        let found: Vec<Input> = lines(text).map(Result::unwrap).collect();
        assert_eq!(found, [Input::File(file), Input::Directory(directory.path().into())]);
    }

    #[test]
    fn a_gguf_file_is_a_model_unless_its_directory_follows() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("model.gguf");
        std::fs::write(&file, "GGUF").unwrap();
        let (folder, text) = (directory.path().to_path_buf(), format!("{}\n", file.display()));
        assert_eq!(lines(text.clone()).model().unwrap(), file);
        let streamed = lines(format!("{text}{}\n", folder.display())).models().unwrap();
        assert_eq!(streamed, std::slice::from_ref(&folder));
        let named = Inputs::from_arguments(vec![file.clone(), folder.clone()]);
        assert_eq!(named.models().unwrap(), [file, folder.clone()]);
        assert_eq!(lines(format!("{text}{}\n", folder.display())).directory().unwrap(), folder);
    }

    #[test]
    fn a_stream_without_its_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        std::fs::write(&file, "{}").unwrap();
        let error = lines(format!("{}\n", file.display())).directories_or_yaml().unwrap_err();
        assert!(error.to_string().contains("without naming its directory"), "{error}");
        let error = lines(String::new()).directories_or_yaml().unwrap_err();
        assert!(error.to_string().contains("nothing arrived"), "{error}");
        let other = tempfile::tempdir().unwrap();
        let text = format!("{}\n{}\n", file.display(), other.path().display());
        assert!(lines(text).directories_or_yaml().is_err(), "another directory does not cover the file");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = lines(text).directories_or_yaml();
        }
    }
}
