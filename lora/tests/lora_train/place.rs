//! A folder with a model and data in it, where the tool runs.

use std::ops::Deref;

use assert_cmd::Command;
use serde_json::{Value, json};
use tests::dir::Dir;

pub(crate) struct Place {
    folder: Dir,
}

impl Deref for Place {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        &self.folder
    }
}

impl Place {
    /// With `model` and `data.json`, twelve examples to learn three words by.
    pub(crate) fn new() -> Self {
        let folder = Dir::new();
        tests::tiny_model::write(&folder.path("model"), 7);
        let place = Self { folder };
        let word = |i: usize| ["salt", "river", "lantern"][i % 3];
        let row = |i: usize| json!({"instruction": format!("Say the word {}", i % 3), "output": word(i)});
        place.write("data.json", (0..12).map(row).collect::<Value>().to_string());
        place
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::cargo_bin("lora-train").unwrap();
        command.current_dir(self.path("")).args(arguments.split_whitespace());
        command.env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    /// Runs to a good end and returns stdout and stderr.
    pub(crate) fn run(&self, arguments: &str) -> (String, String) {
        let run = self.command(arguments).output().unwrap();
        let [out, said] = [run.stdout, run.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(run.status.success(), "{said}");
        (out, said)
    }

    /// Runs to a good end and returns stdout.
    pub(crate) fn train(&self, arguments: &str) -> String {
        self.run(arguments).0
    }

    /// Runs to a bad end and returns the exit code and stderr.
    pub(crate) fn fail(&self, arguments: &str) -> (i32, String) {
        let run = self.command(arguments).output().unwrap();
        assert!(run.stdout.is_empty(), "a failed run names no result");
        (run.status.code().unwrap(), String::from_utf8(run.stderr).unwrap())
    }

    pub(crate) fn adapter(&self, name: &str) -> Vec<u8> {
        self.bytes(&format!("{name}/adapter_model.safetensors"))
    }

    /// The values of a field in `trainer_log.jsonl`.
    pub(crate) fn logged(&self, output: &str, field: &str) -> Vec<f64> {
        let text = self.text(&format!("{output}/trainer_log.jsonl"));
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| line[field].as_f64()).collect()
    }

    pub(crate) fn losses(&self, output: &str) -> Vec<f64> {
        self.logged(output, "loss")
    }

    /// The steps of the checkpoints in `output`.
    pub(crate) fn checkpoints(&self, output: &str) -> Vec<u64> {
        let entries = fs_err::read_dir(self.path(output)).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let step = |name: &str| name.strip_prefix("checkpoint-")?.parse().ok();
        let mut steps: Vec<u64> = names.filter_map(|name| step(name.to_str()?)).collect();
        steps.sort_unstable();
        steps
    }
}
