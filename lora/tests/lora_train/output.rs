//! What a run never writes, replaces or removes; and what it finds again after a kill.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::place::Place;
use crate::training::RUN;

/// Paths and bytes of all files below a directory.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() && !path.is_symlink() {
                true => open.push(path),
                false => drop(found.insert(path.clone(), fs_err::read(&path).unwrap_or_default())),
            }
        }
    }
    found
}

/// Refused, with nothing changed in `directory`.
fn refuse(place: &Place, directory: &str, arguments: &str, named: &str) {
    let before = contents(&place.path(directory));
    let (_, said) = place.fail(arguments);
    assert!(said.contains(named) && said.contains("\nhint: "), "{arguments}: {said}");
    assert!(contents(&place.path(directory)) == before, "{arguments}");
}

#[test]
fn an_output_has_nothing_to_do_with_an_input() {
    let place = Place::new();
    symlink("model", place.path("link")).unwrap();
    place.train(&format!("{RUN} -o first --max-steps 1"));
    for begin in ["", " --force", " --overwrite-output-dir", " --resume"] {
        for output in ["model", "link", "first/../model", "model/new/out", "link/out"] {
            refuse(&place, "", &format!("{RUN} -o {output}{begin}"), "the input");
        }
        let from = format!("{RUN} --adapter-name-or-path first{begin}");
        refuse(&place, "", &format!("{from} -o first"), "is the input");
        refuse(&place, "", &format!("{from} -o first/more"), "lies in the input");
        let checkpoint = format!("{RUN} --adapter-name-or-path first/checkpoint-1{begin}");
        refuse(&place, "", &format!("{checkpoint} -o first"), "holds the input");
        refuse(&place, "", &format!("{RUN} -o /{begin}"), "holds the input");
        refuse(&place, "", &format!("{RUN} -o data.json{begin}"), "is the input");
    }
}

#[test]
fn a_directory_that_is_not_ours_is_not_adopted() {
    let place = Place::new();
    let make = |name: &str, files: &[&str]| {
        for file in files {
            let path = place.path(name).join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, "years of work").unwrap();
        }
    };
    make("home", &["thesis.tex", ".tmp_thesis.tex", "tokenizer.json"]);
    make("peft", &["adapter_model.safetensors", "adapter_config.json", "README.md"]);
    make("transformers", &["checkpoint-500/adapter_model.safetensors", "trainer_state.json"]);
    make("empty-record", &["checkpoint-500/thesis.tex", "trainer_log.jsonl"]);
    fs_err::write(place.path("empty-record/made-by.json"), "{}").unwrap();
    make("quantized", &["config.json"]);
    let made_by = json!({"tool": "quantize", "version": "0", "recipe": 1, "files": {"config.json": "file"}});
    fs_err::write(place.path("quantized/made-by.json"), made_by.to_string()).unwrap();
    for begin in ["", " --force", " --overwrite-output-dir", " --resume"] {
        for (output, entry) in [
            ("home", ".tmp_thesis.tex"),
            ("peft", "README.md"),
            ("transformers", "checkpoint-500"),
            ("empty-record", "checkpoint-500"),
            ("quantized", "config.json"),
        ] {
            let named = format!("{output} holds {entry}, which lora-train did not make");
            refuse(&place, "", &format!("{RUN} -o {output}{begin}"), &named);
        }
    }
}

#[test]
fn force_removes_what_the_run_wrote_and_nothing_else() {
    let place = Place::new();
    let run = format!("{RUN} -o out --max-steps 2 --report-to tensorboard");
    place.train(&run);
    for entry in ["thesis.tex", "checkpoint-500/adapter_model.safetensors", "runs/notes.md"] {
        let path = place.path("out").join(entry);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, "years of work").unwrap();
        let first = if entry.starts_with("runs") { "notes.md" } else { entry.split('/').next().unwrap() };
        for begin in ["--force", "--seed 1 --overwrite-output-dir"] {
            refuse(&place, "out", &format!("{run} {begin}"), &format!("holds {first}"));
        }
        assert_eq!(place.train(&run), "out\n", "what is made is made");
        fs_err::remove_file(&path).unwrap();
        if entry.starts_with("checkpoint") {
            fs_err::remove_dir(path.parent().unwrap()).unwrap();
        }
    }
    // A file of the list that has become a link is not the run's any more.
    fs_err::rename(place.path("out/tokenizer.json"), place.path("mine")).unwrap();
    symlink("../mine", place.path("out/tokenizer.json")).unwrap();
    refuse(&place, "", &format!("{run} --force"), "holds tokenizer.json");
    fs_err::remove_file(place.path("out/tokenizer.json")).unwrap();
    place.train(&format!("{RUN} -o out --max-steps 1 --force"));
    assert_eq!(place.checkpoints("out"), [1]);
    assert!(!place.path("out/runs").exists());
}

#[test]
fn names_that_people_use_are_theirs() {
    let place = Place::new();
    place.write("out.lock", "poetry");
    place.write("bashrc", "mine");
    symlink("bashrc", place.path("out.partial")).unwrap();
    place.train(&format!("{RUN} -o out --max-steps 1"));
    // A run that was killed, in the directory of which somebody has put something since.
    let run = format!("{RUN} -o killed --max-steps 4 --save-steps 2");
    place.train(&run);
    fs_err::remove_dir_all(place.path("killed/checkpoint-4")).unwrap();
    unfinish(&place, "killed");
    for name in ["checkpoint-3.partial/x", ".tmp_thesis.tex", ".removed-checkpoint-1/x", "made-by.json.new"] {
        let path = place.path("killed").join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, "mine").unwrap();
    }
    place.train(&format!("{run} --resume"));
    for name in ["checkpoint-3.partial/x", ".tmp_thesis.tex", ".removed-checkpoint-1/x", "made-by.json.new"] {
        assert_eq!(place.text(&format!("killed/{name}")), "mine");
    }
    assert_eq!((place.text("out.lock"), place.text("bashrc")), ("poetry".into(), "mine".into()));
}

/// Marks a finished run as one that was killed before its end.
fn unfinish(place: &Place, output: &str) {
    let mut made_by: Value = place.json(&format!("{output}/made-by.json"));
    made_by["unfinished"] = json!(true);
    place.write(&format!("{output}/made-by.json"), made_by.to_string());
}

#[test]
fn nothing_is_written_through_a_link() {
    let place = Place::new();
    place.write("bashrc", "mine");
    fs_err::create_dir(place.path("elsewhere")).unwrap();
    let run = format!("{RUN} -o out --max-steps 4 --save-steps 2 --report-to tensorboard");
    place.train(&run);
    fs_err::remove_dir_all(place.path("out/checkpoint-4")).unwrap();
    fs_err::remove_dir_all(place.path("out/runs")).unwrap();
    unfinish(&place, "out");
    for name in ["tokenizer.json", "trainer_log.jsonl", "trainer_state.json", "training_loss.png"] {
        fs_err::remove_file(place.path("out").join(name)).unwrap();
        symlink("../bashrc", place.path("out").join(name)).unwrap();
    }
    for name in ["checkpoint-9", "runs"] {
        symlink("../elsewhere", place.path("out").join(name)).unwrap();
    }
    let (_, said) = place.fail(&format!("{run} --resume"));
    assert!(said.contains("out/runs") && said.contains("is not of this run"), "{said}");
    fs_err::remove_file(place.path("out/runs")).unwrap();
    place.train(&format!("{run} --resume"));
    assert_eq!(place.text("bashrc"), "mine");
    assert_eq!(contents(&place.path("elsewhere")).len(), 0);
    assert!(!place.path("out/trainer_log.jsonl").is_symlink());
}

#[test]
fn an_earlier_adapter_is_usable_until_the_new_one_is_whole() {
    let place = Place::new();
    place.train(&format!("{RUN} -o out --max-steps 2"));
    let adapter = place.adapter("out");
    // It fails in its third step, when its directory has long been begun.
    let run = format!("{RUN} -o out --max-steps 40 --learning-rate 1e30 --max-grad-norm 0 --force");
    place.fail(&run.replacen("--learning-rate 1e-2 ", "", 1));
    assert_eq!(place.adapter("out"), adapter);
    assert!(place.path("out/adapter_config.json").exists());
    place.train(&format!("{RUN} -o out --max-steps 1 --force"));
    assert_ne!(place.adapter("out"), adapter);
}

#[test]
fn a_run_that_ends_before_its_first_step_leaves_nothing() {
    let place = Place::new();
    let file = place.path("model/model.safetensors");
    let whole = fs_err::read(&file).unwrap();
    // Headers are sound, numbers are not: it is found when the first step is taken.
    let mut broken = whole.clone();
    let length = broken.len();
    broken[length - 4096..].fill(0xff);
    fs_err::write(&file, broken).unwrap();
    place.fail(&format!("{RUN} -o new/out --max-steps 2"));
    assert!(!place.path("new").exists());
    fs_err::create_dir(place.path("empty")).unwrap();
    place.fail(&format!("{RUN} -o empty --max-steps 2"));
    assert_eq!(contents(&place.path("empty")).len(), 0);
}

#[test]
fn a_finished_run_goes_on_to_a_greater_length() {
    let place = Place::new();
    // At a constant rate a longer run begins as the shorter one.
    let run = format!("{RUN} --lr-scheduler-type constant --val-size 2 --eval-steps 3 --logging-steps 2");
    let run = run.replacen("--logging-steps 1 ", "", 1);
    place.train(&format!("{run} -o whole --num-train-epochs 4"));
    place.train(&format!("{run} -o out --num-train-epochs 2"));
    let (code, said) = place.fail(&format!("{run} -o out --num-train-epochs 4"));
    assert_eq!(code, 1);
    assert!(said.contains("out holds a finished run of 2.0 epochs, not of 4.0 epochs"), "{said}");
    assert!(said.contains("hint: --resume continues it") && !said.contains("--force"), "{said}");
    let (_, said) = place.fail(&format!("{run} -o out --num-train-epochs 1 --resume"));
    assert!(said.contains("there is nothing to continue") && !said.contains("--force"), "{said}");
    let (_, said) = place.fail(&format!("{run} -o out --num-train-epochs 4 --seed 1 --resume"));
    assert!(said.contains("seed was 42, now 1") && !said.contains("--force"), "{said}");
    let (_, said) = place.run(&format!("{run} -o out --num-train-epochs 4 --resume"));
    assert!(said.contains("it goes on to 4.0 epochs"), "{said}");
    assert_eq!(place.adapter("out"), place.adapter("whole"));
    assert_eq!(place.logged("out", "eval_loss").last(), place.logged("whole", "eval_loss").last());
    assert_eq!(place.train(&format!("{run} -o out --num-train-epochs 4")), "out\n");
    // And from there by its checkpoint's name, counted in steps.
    let last = *place.checkpoints("out").last().unwrap();
    let more =
        format!("{run} -o out --max-steps {} --resume-from-checkpoint out/checkpoint-{last}", last + 1);
    place.train(&more);
    assert_eq!(place.checkpoints("out").last(), Some(&(last + 1)));
}

#[test]
fn a_longer_run_that_is_killed_goes_on_too() {
    let place = Place::new();
    let run = format!("{RUN} --lr-scheduler-type constant --save-steps 2");
    place.train(&format!("{run} -o whole --max-steps 8"));
    place.train(&format!("{run} -o out --max-steps 4"));
    place.train(&format!("{run} -o out --max-steps 8 --resume"));
    for gone in [vec![8], vec![6, 8]] {
        gone.iter().for_each(|step| {
            fs_err::remove_dir_all(place.path(&format!("out/checkpoint-{step}"))).unwrap();
        });
        unfinish(&place, "out");
        place.train(&format!("{run} -o out --max-steps 8 --resume"));
        assert_eq!(place.adapter("out"), place.adapter("whole"), "without {gone:?}");
    }
}

#[test]
fn a_run_that_was_killed_before_its_first_checkpoint_begins_again() {
    let place = Place::new();
    let run = format!("{RUN} -o out --max-steps 2");
    place.train(&format!("{RUN} -o whole --max-steps 2"));
    let finished = |arguments: &str| {
        place.train(arguments);
        assert_eq!(place.adapter("out"), place.adapter("whole"), "{arguments}");
        assert!(!place.path("out/.qlora-tools").exists());
        fs_err::remove_dir_all(place.path("out")).unwrap();
    };
    // What the first system calls of a run leave, one after the other.
    for begin in ["", "--force", "--overwrite-output-dir"] {
        fs_err::create_dir(place.path("out")).unwrap();
        finished(&format!("{run} {begin}"));
        fs_err::create_dir_all(place.path("out/.qlora-tools")).unwrap();
        finished(&format!("{run} {begin}"));
        fs_err::create_dir_all(place.path("out/.qlora-tools")).unwrap();
        place.write("out/.qlora-tools/lock", "qlora-tools lora-train\n");
        place.write("out/.qlora-tools/file", "{\"half\": ");
        finished(&format!("{run} {begin}"));
    }
    place.train(&run);
    fs_err::remove_dir_all(place.path("out/checkpoint-2")).unwrap();
    unfinish(&place, "out");
    let (_, said) = place.run(&format!("{run} --resume"));
    assert!(said.contains("no checkpoint in out yet; beginning at step 0"), "{said}");
    assert_eq!(place.adapter("out"), place.adapter("whole"));
}

#[test]
fn two_runs_exclude_each_other() {
    let place = Place::new();
    fs_err::create_dir_all(place.path("out/.qlora-tools")).unwrap();
    let lock = std::fs::File::create(place.path("out/.qlora-tools/lock")).unwrap();
    lock.lock().unwrap();
    refuse(&place, "out", &format!("{RUN} -o out --max-steps 1"), "another process is writing out");
}

#[test]
fn a_run_that_was_killed_at_its_end_is_tidied() {
    let place = Place::new();
    let run = format!("{RUN} --max-steps 4 --save-steps 2");
    place.train(&format!("{run} -o out --save-total-limit 1"));
    place.train(&format!("{run} -o more"));
    assert_eq!(place.checkpoints("out"), [4]);
    // Killed between its last checkpoint and the end of the one before.
    fs_err::rename(place.path("more/checkpoint-2"), place.path("out/checkpoint-2")).unwrap();
    let mut made_by: Value = place.json("out/made-by.json");
    made_by["files"]["checkpoint-2"] = json!("result");
    made_by["unfinished"] = json!(true);
    place.write("out/made-by.json", made_by.to_string());
    place.train(&format!("{run} -o out --save-total-limit 1 --resume"));
    assert_eq!(place.checkpoints("out"), [4]);
    // Killed behind the mark that it is complete.
    fs_err::create_dir(place.path("out/.qlora-tools")).unwrap();
    place.write("out/.qlora-tools/lock", "qlora-tools lora-train\n");
    place.write("out/.qlora-tools/file", "half");
    place.train(&format!("{run} -o out --save-total-limit 1"));
    assert!(!place.path("out/.qlora-tools").exists());
}
