//! Runs `fetch` as a user does, in a directory of its own.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part

use std::path::PathBuf;
use std::process::{Command, Stdio};

use tests::hub::{Hub, HubFile};

/// An empty working directory, and no environment that could reach into the test.
pub(crate) struct Fetch {
    directory: tempfile::TempDir,
}

/// How a run ended.
pub(crate) struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Fetch {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self, endpoint: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fetch"));
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::null());
        let reaches_in = |name: &str| {
            let name = name.to_ascii_uppercase();
            name.starts_with("HF_") || name.ends_with("_PROXY") || name.ends_with("_OFFLINE")
        };
        for (name, _) in std::env::vars().filter(|(name, _)| reaches_in(name)) {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", endpoint).env("HF_HOME", self.path("hf-home")).env_remove("HF_TOKEN");
        command
    }

    pub(crate) fn run(&self, hub: &Hub, arguments: &[&str]) -> Run {
        self.run_at(hub.url(), arguments)
    }

    pub(crate) fn run_at(&self, endpoint: &str, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(endpoint, arguments))
    }

    pub(crate) fn run_with(&self, hub: &Hub, arguments: &[&str], environment: &[(&str, &str)]) -> Run {
        Run::of(self.command(hub.url(), arguments).envs(environment.iter().copied()))
    }

    pub(crate) fn run_into_closed_pipe(&self, hub: &Hub, arguments: &[&str]) -> Run {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = self.command(hub.url(), arguments).stdout(writer).output().unwrap();
        Run { code: output.status.code(), stdout: String::new(), stderr: text(output.stderr) }
    }

    /// The directory holds exactly these files, and the record.
    pub(crate) fn assert_holds(&self, directory: &str, files: &[HubFile]) {
        let root = self.path(directory);
        for file in files {
            let found =
                std::fs::read(root.join(&file.path)).unwrap_or_else(|error| panic!("{}: {error}", file.path));
            assert!(found == *file.content, "{} differs", file.path);
        }
        let mut expected: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        expected.push("fetch.json".into());
        expected.sort();
        assert_eq!(self.names_in(directory), expected);
    }

    /// All files below a directory, sorted.
    pub(crate) fn names_in(&self, directory: &str) -> Vec<String> {
        fn walk(path: &std::path::Path, prefix: &str, names: &mut Vec<String>) {
            for entry in std::fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
                match entry.file_type().unwrap().is_dir() {
                    true => walk(&entry.path(), &format!("{name}/"), names),
                    false => names.push(name),
                }
            }
        }
        let mut names = Vec::new();
        walk(&self.path(directory), "", &mut names);
        names.sort();
        names
    }
}

impl Run {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub(crate) fn assert_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.stdout.lines().map(str::to_string).collect()
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}
