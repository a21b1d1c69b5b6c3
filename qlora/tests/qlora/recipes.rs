//! Every file of docs/recipes, run as it stands: with the tools as `make install` installs them, and a tiny
//! model in the place of the one on the hub.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use tests::dir::{Dir, Run};
use tests::hub::{Hub, HubFile};

use crate::{checkout, install};

struct Kitchen {
    folder: Dir,
    hub: Hub,
    bin: PathBuf,
}

impl Kitchen {
    fn new() -> Self {
        let folder = Dir::new();
        let row = |i: usize| json!({"instruction": format!("Say {}", i % 3), "output": format!("{}", i % 3)});
        folder.write("data.json", (0..6).map(row).collect::<Value>().to_string());
        tests::tiny_model::write(&folder.path("served"), 7);
        let files = folder.contents("served").into_iter();
        let hub = Hub::start(files.map(|(name, bytes)| HubFile::with(&name, bytes, false)).collect());
        let bin = install(&folder);
        Self { folder, hub, bin }
    }

    /// A program that finds the tools on its PATH, and the model at the hub of the test.
    fn command(&self, program: &str, recipe: &str) -> Command {
        let mut command = self.folder.command(program);
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").expect("a PATH"));
        command.env("PATH", path).env("HF_ENDPOINT", self.hub.url());
        command.env("XDG_CACHE_HOME", self.folder.path("cache"));
        command.args(recipe_option(program)).arg(checkout("docs/recipes").join(recipe));
        // A make that runs this test is not the one that runs the recipe.
        command.env_remove("MAKEFLAGS").env_remove("MFLAGS").env_remove("MAKELEVEL");
        command
    }

    fn run(&self, program: &str, recipe: &str) -> Run {
        let run = Run::of(&mut self.command(program, recipe));
        run.assert_code(0);
        run
    }

    /// A program of the test's own, in the place of one that a test cannot use.
    fn stand_in(&self, name: &str, script: &str) {
        let path = self.bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("permissions");
    }

    /// The tools that `make merged` runs.
    fn make(&self) -> Vec<String> {
        let run = Run::of(self.command("make", "Makefile").arg("merged"));
        run.assert_code(0);
        // Of what make and the tools print, the commands are more than one word.
        let commands = run.stdout.lines().filter(|line| !line.starts_with(['\t', ' ']));
        let commands = commands.filter_map(|line| line.split_once(' ')).map(|(tool, _)| tool.to_owned());
        commands.filter(|tool| tool != "make:").collect()
    }

    fn is_older(&self, file: &str) {
        let file = File::options().write(true).open(self.folder.path(file)).expect("a file");
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).expect("a time");
    }

    fn assert_merged(&self) {
        assert_eq!(self.folder.json("merged/config.json")["quantization_config"], Value::Null);
        assert!(
            self.folder.bytes("merged/model.safetensors") != self.folder.bytes("served/model.safetensors")
        );
    }
}

fn recipe_option(program: &str) -> &'static [&'static str] {
    if program == "make" { &["-f"] } else { &[] }
}

#[test]
fn the_makefile_makes_what_is_missing_or_older_and_nothing_else() {
    let kitchen = Kitchen::new();
    assert_eq!(kitchen.make(), ["fetch", "quantize", "lora-train", "merge"]);
    kitchen.assert_merged();
    assert_eq!(kitchen.make(), [""; 0], "all is there");

    kitchen.is_older("adapter/adapter_model.safetensors");
    assert_eq!(kitchen.make(), ["lora-train", "merge"], "the data is newer than the adapter");
    std::fs::remove_dir_all(kitchen.folder.path("merged")).unwrap();
    assert_eq!(kitchen.make(), ["merge"]);
    std::fs::remove_dir_all(kitchen.folder.path("nf4")).unwrap();
    assert_eq!(kitchen.make(), ["quantize", "lora-train", "merge"]);
    assert_eq!(kitchen.make(), [""; 0]);

    Run::of(kitchen.command("make", "Makefile").arg("clean")).assert_code(0);
    assert!(!kitchen.folder.path("nf4").exists() && kitchen.folder.path("model/fetch.json").exists());
}

#[test]
fn the_pipeline_answers_and_does_nothing_twice() {
    let kitchen = Kitchen::new();
    let first = kitchen.run("bash", "pipeline.sh");
    kitchen.assert_merged();
    let merged = kitchen.folder.contents("merged");
    let second = kitchen.run("bash", "pipeline.sh");
    assert!(second.stderr.contains("adapter is already trained"), "{}", second.stderr);
    assert_eq!(first.stdout.lines().next(), Some("merged"));
    assert!(kitchen.folder.contents("merged") == merged && second.stdout == first.stdout);
}

#[test]
fn the_slurm_script_trains_and_queues_itself_again() {
    let kitchen = Kitchen::new();
    std::fs::rename(kitchen.folder.path("served"), kitchen.folder.path("model")).unwrap();
    let mut quantize = kitchen.folder.command(kitchen.bin.join("quantize").to_str().unwrap());
    Run::of(quantize.args(["model", "-o", "nf4"])).assert_code(0);
    let job = || Run::of(kitchen.command("bash", "train.slurm").env("SLURM_JOB_ID", "4711"));

    // The time limit, before anything is trained.
    kitchen.stand_in("srun", "exit 130");
    kitchen.stand_in("scontrol", "echo \"$@\" >>scontrol.log");
    job().assert_code(130);
    assert_eq!(kitchen.folder.text("scontrol.log"), "requeue 4711\n");

    kitchen.stand_in("srun", "echo \"$@\" >>srun.log; exec \"$@\"");
    job().assert_code(0);
    assert!(kitchen.folder.path("adapter/adapter_model.safetensors").exists());
    let again = job();
    again.assert_code(0);
    assert!(again.stderr.contains("adapter is already trained"), "{}", again.stderr);
    let log = kitchen.folder.text("srun.log");
    let resumes: Vec<bool> = log.lines().map(|line| line.ends_with(" --resume")).collect();
    assert_eq!(resumes, [false, true], "{log}");
    assert_eq!(kitchen.folder.text("scontrol.log").lines().count(), 1);
}

#[test]
fn cargo_run_needs_nothing_installed() {
    let kitchen = Kitchen::new();
    // Cargo would build; the programs are the same. A package has one program, or names the one that it runs.
    let packages = checkout("").canonicalize().unwrap();
    kitchen.stand_in(
        "cargo",
        &format!(
            "test \"$1 $2 $3\" = 'run --release -p' && test \"$5\" = -- && test -f {}/\"$4\"/Cargo.toml || exit 99
            package=$4; shift 5
            program=$(sed -n 's/^default-run = \"\\(.*\\)\"/\\1/p' {0}/$package/Cargo.toml)
            exec ${{program:-$package}} \"$@\"",
            packages.display()
        ),
    );
    let run = kitchen.run("bash", "cargo-run.sh");
    kitchen.assert_merged();
    assert!(run.stdout.contains("\nmodel\nnf4\nadapter\nmerged\n"), "{}", run.stdout);
}
