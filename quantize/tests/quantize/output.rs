//! What is never written, replaced or removed: inputs, what somebody else made, what a link points to.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::checkpoint::{Dtype, Tensor, write_file};
use tests::dir::Dir;

/// A folder with a model of one weight in `source`, and what must not change in it.
struct Place {
    folder: Dir,
    kept: Vec<(PathBuf, Vec<u8>)>,
}

impl Deref for Place {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        &self.folder
    }
}

impl Place {
    fn new() -> Self {
        let folder = Dir::new();
        let source = folder.make("source");
        let config = r#"{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
            "num_hidden_layers": 1, "intermediate_size": 128, "vocab_size": 16,
            "max_position_embeddings": 16, "rms_norm_eps": 1e-6}"#;
        fs::write(source.join("config.json"), config).unwrap();
        fs::write(source.join("tokenizer.json"), "{}").unwrap();
        let bytes: Vec<u8> =
            (0..128 * 64_u32).flat_map(|i| ((i % 97 + 0x3f00) as u16).to_le_bytes()).collect();
        let name = "model.layers.0.mlp.up_proj.weight".to_owned();
        let weight = Tensor { name, dtype: Dtype::BF16, shape: vec![128, 64], bytes: bytes.into() };
        write_file(&source.join("model.safetensors"), &[weight]).unwrap();
        let mut place = Self { folder, kept: Vec::new() };
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            place.keep(&format!("source/{file}"));
        }
        place
    }

    /// From now on the file must not change.
    fn keep(&mut self, name: &str) {
        self.kept.push((self.path(name), fs::read(self.path(name)).unwrap()));
    }

    /// Writes a file of the user's, which must not change.
    fn mine(&mut self, name: &str) {
        self.write(name, format!("{name}: years of work"));
        self.keep(name);
    }

    fn run(&self, arguments: &str) -> (Option<i32>, String) {
        let mut command = Command::cargo_bin("quantize").unwrap();
        command.current_dir(self.path("")).args(arguments.split_whitespace());
        let run = command.output().unwrap();
        for (path, bytes) in &self.kept {
            assert!(&fs::read(path).unwrap() == bytes, "{} has changed: {arguments}", path.display());
        }
        (run.status.code(), String::from_utf8(run.stderr).unwrap())
    }

    fn quantize(&self, arguments: &str) {
        let (code, said) = self.run(arguments);
        assert_eq!(code, Some(0), "{said}");
    }

    fn refuse(&self, arguments: &str, code: i32, named: &str) {
        let (found, said) = self.run(arguments);
        assert_eq!(found, Some(code), "{arguments}: {said}");
        assert!(said.contains(named) && said.contains("\nhint: "), "{arguments}: {said}");
    }
}

#[test]
fn an_output_has_nothing_to_do_with_the_input() {
    let place = Place::new();
    symlink("source", place.path("link")).unwrap();
    fs::create_dir(place.path("source/sub")).unwrap();
    for force in ["", " --force"] {
        for output in ["source", "link", "source/../source", "./source/."] {
            place.refuse(&format!("source -o {output}{force}"), 2, "is the input");
        }
        for output in ["source/q", "link/new/q", "source/sub/../q"] {
            place.refuse(&format!("source -o {output}{force}"), 2, "lies in the input");
        }
        place.refuse(&format!("source -o ../{}{force}", name_of(&place.path(""))), 2, "holds the input");
        place.refuse(&format!("source -o q --report source/r{force}"), 2, "lies in the input");
        place.refuse(&format!("source -o q --report q/r{force}"), 2, "lies in the input");
    }
    assert_eq!(place.names(""), ["link", "source"]);
    assert_eq!(place.names("source/sub"), [""; 0]);
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn what_somebody_else_made_is_not_replaced() {
    let mut place = Place::new();
    place.mine("home/thesis.tex");
    place.mine("peft/adapter_model.safetensors");
    place.mine("peft/adapter_config.json");
    place.mine("empty-record/config.json");
    fs::write(place.path("empty-record/made-by.json"), "{}").unwrap();
    place.mine("other-tool/config.json");
    let made_by = r#"{"tool": "merge", "version": "0.1.0", "recipe": 1, "files": {"config.json": "file"}}"#;
    fs::write(place.path("other-tool/made-by.json"), made_by).unwrap();
    place.mine("file");
    for force in ["", " --force"] {
        place.refuse(&format!("source -o home{force}"), 1, "holds thesis.tex, which quantize did not make");
        place.refuse(&format!("source -o peft{force}"), 1, "holds adapter_config.json");
        place.refuse(&format!("source -o empty-record{force}"), 1, "holds config.json");
        place.refuse(&format!("source -o other-tool{force}"), 1, "holds config.json");
        place.refuse(&format!("source -o file{force}"), 1, "is not a directory");
        place.refuse(&format!("source -o .{force}"), 2, "the input");
        place.refuse(&format!("source -o /{force}"), 2, "holds the input");
    }
    // A result of ours to which somebody has added something.
    place.quantize("source -o q");
    place.mine("q/notes.md");
    place.refuse("source -o q --block-size 128 --force", 1, "holds notes.md");
    place.quantize("source -o q");
    fs::remove_file(place.kept.pop().unwrap().0).unwrap();
    place.quantize("source -o q --block-size 128 --force");
    assert_eq!(place.names("q"), ["config.json", "made-by.json", "model.safetensors", "tokenizer.json"]);
}

#[test]
fn names_that_people_use_are_theirs() {
    let mut place = Place::new();
    for name in
        ["q.partial/thesis.tex", "q.lock", "q.partial.lock", "q.partial.replaced/x", ".tmp_thesis.tex"]
    {
        place.mine(name);
    }
    for name in ["r.jsonl.partial", "r.jsonl.lock", "r.png", ".tmp123", "r.jsonl.new"] {
        place.mine(name);
    }
    place.quantize("source -o q --report r.jsonl");
    place.quantize("source -o q --report r.jsonl");
    place.quantize("source -o q --report r.jsonl --force --block-size 128");
    let mut names = place.names("");
    names.retain(|name| !place.kept.iter().any(|(path, _)| path.starts_with(place.path(name))));
    assert_eq!(names, ["q", "r.jsonl"]);
    // What has our own name and is not ours is in the way, and stays.
    place.mine(".p.qlora-tools/notes.md");
    place.refuse("source -o p", 1, ".p.qlora-tools is in the way");
}

#[test]
fn nothing_is_written_through_a_link() {
    let mut place = Place::new();
    place.mine(".bashrc");
    place.mine("elsewhere/x");
    symlink(".bashrc", place.path("q.lock")).unwrap();
    symlink(".bashrc", place.path("file-link")).unwrap();
    symlink("elsewhere", place.path(".a.qlora-tools")).unwrap();
    place.refuse("source -o a", 1, "is in the way");
    fs::create_dir(place.path(".b.qlora-tools")).unwrap();
    symlink("../.bashrc", place.path(".b.qlora-tools/lock")).unwrap();
    place.refuse("source -o b", 1, "is in the way");
    // A scratch directory like one that was killed, in which everything leads out.
    fs::create_dir(place.path(".q.qlora-tools")).unwrap();
    fs::write(place.path(".q.qlora-tools/lock"), "qlora-tools quantize\n").unwrap();
    for name in ["new", "old", "file"] {
        symlink("../elsewhere", place.path(&format!(".q.qlora-tools/{name}"))).unwrap();
    }
    place.quantize("source -o q");
    for output in ["file-link", "/dev/null"] {
        place.refuse(&format!("source -o x --report {output} --force"), 1, "is not a regular file");
    }
    symlink("nothing", place.path("dangling")).unwrap();
    place.refuse("source -o dangling", 1, "is a link to nothing");
    // A link to a directory stands for it.
    fs::create_dir(place.path("disk")).unwrap();
    symlink("disk", place.path("to-disk")).unwrap();
    place.quantize("source -o to-disk");
    assert!(place.path("disk/model.safetensors").is_file() && place.path("to-disk").is_symlink());
    assert_eq!(place.names("elsewhere"), ["x"]);
}

#[test]
fn a_report_that_exists_is_replaced_only_with_force() {
    let mut place = Place::new();
    place.mine("r.jsonl");
    place.refuse("source -o q --report r.jsonl", 1, "r.jsonl exists");
    assert!(!place.path("q").exists(), "said before the work");
    place.kept.pop();
    place.quantize("source -o q --report r.jsonl --force");
    place.keep("r.jsonl");
    place.quantize("source -o q --report r.jsonl");
    assert_eq!(place.names(""), ["q", "r.jsonl", "source"]);
}

#[test]
fn names_that_cannot_be_are_refused_before_the_work() {
    let place = Place::new();
    let mut command = Command::cargo_bin("quantize").unwrap();
    let run = command.current_dir(place.path("")).args(["source", "-o", "a\nb"]).output().unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(2), "{said}");
    assert!(said.contains("line break") && said.contains("\nhint: "), "{said}");
    assert_eq!(place.names(""), ["source"]);
    place.quantize(&format!("source -o {}", "n".repeat(255)));
}

#[test]
fn two_processes_and_a_result_of_another_tool() {
    let place = Place::new();
    fs::create_dir(place.path(".q.qlora-tools")).unwrap();
    let lock = fs::File::create(place.path(".q.qlora-tools/lock")).unwrap();
    lock.lock().unwrap();
    place.refuse("source -o q", 1, "another process is writing q");
    drop(lock);
    fs::write(place.path(".q.qlora-tools/lock"), "qlora-tools merge\n").unwrap();
    place.refuse("source -o q", 1, "holds unfinished work of merge");
    fs::write(place.path(".q.qlora-tools/lock"), "").unwrap();
    place.quantize("source -o q");
    assert_eq!(place.names(""), ["q", "source"]);
}
