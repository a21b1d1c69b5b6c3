//! A working directory of a test, and tools that run in it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A directory that is removed at the end of the test. Names are relative to it.
pub struct Dir(TempDir);

impl Dir {
    /// An empty directory.
    ///
    /// # Panics
    ///
    /// Where none can be made.
    #[allow(clippy::new_without_default)] // a default that makes a directory would surprise
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// The path of `name`; the empty name is the directory itself.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a directory, and those above it.
    ///
    /// # Panics
    ///
    /// Where it cannot be made.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        path
    }

    /// Writes a file, and makes the directories above it.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        let written = std::fs::create_dir_all(path.parent().expect("a parent"))
            .and_then(|()| std::fs::write(&path, content));
        written.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// The bytes of a file.
    ///
    /// # Panics
    ///
    /// Where it cannot be read.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The text of a file.
    ///
    /// # Panics
    ///
    /// Where it cannot be read.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The value in a JSON file.
    ///
    /// # Panics
    ///
    /// Where the file is no JSON.
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The names of the entries of a directory, sorted; none where it is not there.
    ///
    /// # Panics
    ///
    /// Where an entry cannot be read.
    pub fn names(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(name)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
            .collect();
        names.sort();
        names
    }

    /// The names of all files below a directory, relative to it and sorted.
    ///
    /// # Panics
    ///
    /// Where a directory cannot be read.
    pub fn files_below(&self, name: &str) -> Vec<String> {
        let mut files = Vec::new();
        for entry in self.names(name) {
            let path = if name.is_empty() { entry.clone() } else { format!("{name}/{entry}") };
            match self.path(&path).symlink_metadata().expect("an entry").is_dir() {
                true => files.extend(self.files_below(&path).iter().map(|below| format!("{entry}/{below}"))),
                false => files.push(entry),
            }
        }
        files.sort();
        files
    }

    /// The names and bytes of the files in a directory, sorted by name.
    ///
    /// # Panics
    ///
    /// Where a file cannot be read.
    pub fn contents(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let content = |file: String| (file.clone(), self.bytes(&format!("{name}/{file}")));
        self.names(name).into_iter().map(content).collect()
    }

    /// A program that runs in the directory, with an empty standard input.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }
}

/// How a program ended.
#[derive(Debug)]
pub struct Run {
    /// The exit code; `None` where a signal ended the program.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Run {
    /// Runs a command to its end.
    ///
    /// # Panics
    ///
    /// Where it cannot be run, panics, or writes something that is no text.
    pub fn of(command: &mut Command) -> Self {
        Self::of_output(command.output().expect("a process"))
    }

    /// What a program has written that has ended.
    ///
    /// # Panics
    ///
    /// Where it panics, or writes something that is no text.
    pub fn of_output(Output { status, stdout, stderr }: Output) -> Self {
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("a text"));
        assert!(!stderr.contains("panicked"), "{stderr}");
        Self { code: status.code(), stdout, stderr }
    }

    /// Fails unless the program ended with this code.
    ///
    /// # Panics
    ///
    /// With all that the program wrote.
    pub fn assert_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
    }

    /// The lines of standard output.
    pub fn lines(&self) -> Vec<String> {
        self.stdout.lines().map(str::to_string).collect()
    }
}
