//! Runs `fetch` as a user does, in a directory of its own.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part

use std::ops::Deref;
use std::process::Command;

use tests::dir::Dir;
pub(crate) use tests::dir::Run;
use tests::hub::{Hub, HubFile};

/// An empty working directory, and no environment that could reach into the test.
pub(crate) struct Fetch {
    directory: Dir,
}

impl Deref for Fetch {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        &self.directory
    }
}

impl Fetch {
    pub(crate) fn new() -> Self {
        Self { directory: Dir::new() }
    }

    pub(crate) fn command(&self, endpoint: &str, arguments: &[&str]) -> Command {
        let mut command = self.directory.command(env!("CARGO_BIN_EXE_fetch"));
        command.args(arguments);
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
        let stderr = String::from_utf8(output.stderr).unwrap();
        Run { code: output.status.code(), stdout: String::new(), stderr }
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
        assert_eq!(self.files_below(directory), expected);
    }
}
