//! Models that are not what they should be or change meanwhile, and terminals that go away.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tests::hostile::{
    Ended, cut, end, refuses, senseless_configs, wait, with_impostors, with_key, without_stderr,
};

use crate::place::Place;
use crate::training::RUN;

fn lora_train(place: &Place, arguments: &str) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("lora-train"));
    command.current_dir(place.path("")).env("XDG_CACHE_HOME", place.path("cache"));
    command.args(arguments.split_whitespace());
    command
}

#[test]
fn files_of_another_kind_are_refused_by_name() {
    let place = Place::new();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        with_impostors(&place.path("model").join(name), |_| {
            refuses(&mut lora_train(&place, &format!("{RUN} -o out")), name);
        });
    }
    place.write("train.yaml", "model_name_or_path: model\ndataset: data.json\n");
    with_impostors(&place.path("train.yaml"), |what| {
        if what != "a directory" {
            refuses(&mut lora_train(&place, "train.yaml"), "train.yaml");
        }
    });
    assert!(!place.path("out/adapter_model.safetensors").exists());
}

#[test]
fn configs_that_no_model_has_are_refused_by_key() {
    let place = Place::new();
    for (key, value) in senseless_configs() {
        with_key(&place.path("model/config.json"), key, &value, || {
            refuses(&mut lora_train(&place, &format!("{RUN} -o out")), key);
        });
    }
}

#[test]
fn weights_that_change_end_a_run_with_what_was_saved_before() {
    let place = Place::new();
    let whole = place.bytes("model/model.safetensors");
    for (index, in_place) in [false, true].into_iter().enumerate() {
        let run = format!("{RUN} -o out-{index} --max-steps 100000 --save-steps 1 --save-total-limit 2");
        let mut child =
            lora_train(&place, &run).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        while !place.path(&format!("out-{index}/checkpoint-2")).exists() {
            assert!(child.try_wait().unwrap().is_none());
        }
        let file = place.path("model/model.safetensors");
        match in_place {
            true => tests::hostile::while_stopped(&child, || std::fs::write(&file, &whole).unwrap()),
            false => cut(&child, &file),
        }
        let Ended { code, stderr } = end(child);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("model.safetensors: the file changed while it was read\nhint: "), "{stderr}");
        assert!(!place.path(&format!("out-{index}/adapter_model.safetensors")).exists());
        assert!(!place.checkpoints(&format!("out-{index}")).is_empty());
        std::fs::write(&file, &whole).unwrap();
    }
}

#[test]
fn what_cannot_be_said_is_not_said() {
    let place = Place::new();
    let run = format!("{RUN} --max-steps 3 -o");
    place.train(&format!("{run} spoken"));
    for (what, code, stdout) in without_stderr(|| lora_train(&place, &format!("{run} out --force"))) {
        assert_eq!((code, stdout.as_str()), (Some(0), "out\n"), "{what}");
        assert!(place.adapter("out") == place.adapter("spoken"), "{what}");
    }
}

/// Runs with a terminal as input, output and stderr, until that has shown `text`; then it goes away.
fn until_the_terminal_is_lost(place: &Place, command: &str, text: &str) -> Option<i32> {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let end = || {
        let open = rustix::fs::open(
            &*name,
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        Stdio::from(File::from(open.unwrap()))
    };
    let mut run = Command::new("setsid");
    run.args(["--ctty", "sh", "-c", command]).current_dir(place.path(""));
    run.env("TOOL", assert_cmd::cargo::cargo_bin("lora-train")).env("XDG_CACHE_HOME", place.path("cache"));
    let mut child = run.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    drop(run);
    let mut terminal = File::from(terminal);
    let (mut shown, mut bytes) = (String::new(), [0; 4096]);
    while !shown.contains(text) {
        let count = terminal.read(&mut bytes).unwrap();
        shown += &String::from_utf8_lossy(&bytes[..count]);
    }
    drop(terminal);
    wait(&mut child)
}

#[test]
fn a_run_that_loses_its_terminal_saves_what_it_has() {
    let place = Place::new();
    let run = format!("exec env --default-signal=HUP $TOOL {RUN} --max-steps 100000 -o out");
    assert_eq!(until_the_terminal_is_lost(&place, &run, "step 20/"), Some(130));
    let [step] = place.checkpoints("out")[..] else { panic!("{:?}", place.checkpoints("out")) };
    assert!(step >= 20, "{step}");
}

#[test]
fn a_run_that_ignores_the_loss_of_its_terminal_trains_on() {
    let place = Place::new();
    let run = format!("{RUN} --max-steps 60 -o");
    place.train(&format!("{run} undisturbed"));
    let command = format!("trap '' HUP; exec $TOOL {run} out");
    assert_eq!(until_the_terminal_is_lost(&place, &command, "step 5/"), Some(0));
    assert!(place.adapter("out") == place.adapter("undisturbed"));
}
