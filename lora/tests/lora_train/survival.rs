//! Signals, kills, and models and data that are not sound.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::checkpoint::{Checkpoint, Tensor, write_file};
use serde_json::{Value, json};

use crate::place::Place;
use crate::training::RUN;

/// The tool as a process that can be signalled.
fn start(place: &Place, arguments: &str) -> Child {
    // Tests that run under nohup are started with a SIGHUP that is ignored, which a tool would respect.
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP").arg(assert_cmd::cargo::cargo_bin("lora-train"));
    command.current_dir(place.path("")).env("XDG_CACHE_HOME", place.path("cache"));
    command.args(arguments.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Reads what a process says until a line has `text` in it.
fn wait_for(said: &mut impl BufRead, text: &str) {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "{text:?} was never said");
    }
}

fn rest(mut said: impl BufRead) -> String {
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    text
}

/// Data of which one effective batch takes long.
fn slow(place: &Place) -> String {
    let row = |i: usize| json!({"instruction": format!("{i} {}", "again and ".repeat(20)), "output": "yes"});
    place.write("slow.json", (0..4000).map(row).collect::<Value>().to_string());
    "model --data slow.json --gradient-accumulation-steps 4000 --max-steps 2".into()
}

#[test]
fn a_signal_between_two_steps_saves_and_the_run_goes_on_to_the_same_end() {
    let place = Place::new();
    let run = format!("{RUN} --max-steps 400 --logging-steps 50");
    let run = run.replacen("--logging-steps 1 ", "", 1);
    place.train(&format!("{run} -o whole"));
    for (index, name) in ["INT", "TERM", "HUP"].into_iter().enumerate() {
        let mut child = start(&place, &format!("{run} -o stopped-{index}"));
        let mut said = BufReader::new(child.stderr.take().unwrap());
        wait_for(&mut said, "step 50/400");
        signal(&child, name);
        let said = rest(said);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
        assert!(said.contains("is saved") && said.contains("hint: the same command with --resume"), "{said}");
        assert!(place.path(&format!("stopped-{index}/training_loss.png")).exists());
        place.train(&format!("{run} -o stopped-{index} --resume"));
        assert_eq!(place.adapter("whole"), place.adapter(&format!("stopped-{index}")));
        assert_eq!(place.losses("whole"), place.losses(&format!("stopped-{index}")));
    }
}

#[test]
fn a_signal_within_a_step_ends_it_after_the_pass() {
    let place = Place::new();
    let run = slow(&place);
    let mut child = start(&place, &format!("{run} -o out"));
    let mut said = BufReader::new(child.stderr.take().unwrap());
    wait_for(&mut said, "Activations");
    signal(&child, "INT");
    let said = rest(said);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(said.contains("before the end of the first step; nothing is saved"), "{said}");
    assert!(!place.path("out").exists(), "there is nothing to go on from");
}

#[test]
fn a_second_signal_ends_at_once() {
    let place = Place::new();
    // One pass is long here: whatever is planned, a single example is never cut.
    place.write("long.json", json!([{"instruction": "x".repeat(3500), "output": "y"}]).to_string());
    let mut child = start(&place, "model --data long.json --cutoff-len 4000 --max-steps 100 -o out");
    let mut said = BufReader::new(child.stderr.take().unwrap());
    wait_for(&mut said, "Activations");
    // Two signals that come faster than a busy machine delivers them are one.
    while child.try_wait().unwrap().is_none() {
        signal(&child, "INT");
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = rest(said);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!said.contains("is saved"), "{said}");
}

#[test]
fn twenty_kills_change_nothing() {
    let place = Place::new();
    let run = RUN.replace("--logging-steps 1", "--logging-steps 4");
    let run =
        format!("{run} --num-train-epochs 6 --save-steps 2 --save-total-limit 3 --val-size 2 --eval-steps 3");
    place.train(&format!("{run} -o whole"));
    let begun = Instant::now();
    place.train(&format!("{run} -o timed"));
    let whole = begun.elapsed();
    let mut kills = 0;
    while kills < 20 {
        let resume =
            if place.path("out").exists() && !place.checkpoints("out").is_empty() { "--resume" } else { "" };
        let mut child = start(&place, &format!("{run} -o out {resume}"));
        // In no order, over the whole run and a little beyond.
        std::thread::sleep(whole.mul_f64((kills * 7 % 20) as f64 / 18.0).max(Duration::from_millis(1)));
        child.kill().unwrap();
        let said = rest(BufReader::new(child.stderr.take().unwrap()));
        let finished = child.wait().unwrap().success();
        assert!(finished || !said.contains("error:"), "{said}");
        kills += 1;
        for step in if place.path("out").exists() { place.checkpoints("out") } else { Vec::new() } {
            let path = place.path(&format!("out/checkpoint-{step}/adapter_model.safetensors"));
            assert!(Checkpoint::open_file(&path).is_ok(), "checkpoint-{step} is half");
        }
        if finished || kills % 3 == 0 {
            let resume = if place.checkpoints("out").is_empty() { "--force" } else { "--resume" };
            place.train(&format!("{run} -o out {resume}"));
            assert_eq!(place.adapter("whole"), place.adapter("out"));
            for field in ["loss", "eval_loss", "lr"] {
                assert_eq!(place.logged("whole", field), place.logged("out", field), "{field}");
            }
            let loss =
                |output: &str| place.json(&format!("{output}/train_results.json"))["train_loss"].clone();
            assert_eq!(loss("whole"), loss("out"));
            fs_err::remove_dir_all(place.path("out")).unwrap();
        }
    }
}

#[test]
fn nothing_but_results_is_left_in_the_output() {
    let place = Place::new();
    place.train(&format!("{RUN} -o out --max-steps 2"));
    let names = fs_err::read_dir(place.path("out")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    let expected = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "all_results.json",
        "checkpoint-2",
        "generation_config.json",
        "made-by.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "train_results.json",
        "trainer_log.jsonl",
        "trainer_state.json",
        "training_args.yaml",
        "training_loss.png",
    ];
    assert_eq!(names, expected);
    let mut beside: Vec<_> =
        fs_err::read_dir(place.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["cache", "data.json", "model", "out"]);
}

/// A place whose model has zeros in place of these weights of its second block.
fn with_zeros(modules: &[&str]) -> Place {
    let place = Place::new();
    let file = place.path("model/model.safetensors");
    let checkpoint = Checkpoint::open_file(&file).unwrap();
    let names: Vec<String> = modules.iter().map(|module| format!("model.layers.1.{module}.weight")).collect();
    let tensors: Vec<Tensor> = checkpoint
        .tensors()
        .map(|tensor| {
            let zeros = || vec![0.0; tensor.element_count()];
            let values = if names.contains(&tensor.name) { zeros() } else { tensor.to_f32().unwrap() };
            Tensor::from_f32(&tensor.name, tensor.shape.clone(), &values)
        })
        .collect();
    drop(checkpoint);
    write_file(&file, &tensors).unwrap();
    place
}

#[test]
fn a_layer_that_cannot_learn_stops_the_run() {
    // Each of the two is multiplied with the other, so that neither ever moves.
    let place = with_zeros(&["mlp.up_proj", "mlp.gate_proj"]);
    let (code, said) = place.fail(&format!("{RUN} -o out --max-steps 3"));
    assert_eq!(code, 1);
    let expected = "step 2: the gradient of model.layers.1.mlp.gate_proj.lora_B.weight is zero";
    assert!(said.contains(expected) && said.contains("hint:"), "{said}");
    assert!(place.checkpoints("out").is_empty());
}

#[test]
fn a_block_that_begins_as_zero_is_trained() {
    // As LLaMA Pro grows a model: such a block changes nothing until its last layers have moved.
    for schedule in ["constant", "linear --warmup-ratio 0.5"] {
        let place = with_zeros(&["self_attn.o_proj", "mlp.down_proj"]);
        place.train(&format!("{RUN} -o out --max-steps 4 --lr-scheduler-type {schedule}"));
        let adapter = Checkpoint::open_file(&place.path("out/adapter_model.safetensors")).unwrap();
        for tensor in adapter.tensors() {
            assert!(tensor.to_f32().unwrap().iter().any(|&value| value != 0.0), "{} learns", tensor.name);
        }
    }
}

#[test]
fn a_jump_of_the_loss_is_reported() {
    let place = Place::new();
    let mut rows = vec![json!({"instruction": "Say it", "output": "salt salt salt"}); 60];
    rows.push(json!({"instruction": "zq", "output": "#9!~ %7& QX"}));
    place.write("jump.json", Value::from(rows).to_string());
    let run = "model --data jump.json --disable-shuffling --learning-rate 1e-2 --gradient-accumulation-steps 1 \
        --num-train-epochs 1 --lr-scheduler-type constant -o out";
    let (_, said) = place.run(run);
    assert!(said.contains("warning: step 61: the loss jumps to"), "{said}");
    assert_eq!(said.matches("jumps").count(), 1, "{said}");
}

#[test]
fn the_line_of_a_step_has_speed_memory_and_what_is_left() {
    let place = Place::new();
    let (_, said) = place.run(&format!("{RUN} -o out --max-steps 2"));
    let line = said.lines().find(|line| line.contains("step 1/2")).unwrap();
    for part in
        ["loss ", "gradient norm ", "learning rate ", " tokens/s (", " trained), ", " MiB (peak ", " left"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    let tokens = said.lines().find(|line| line.contains("Num tokens = ")).unwrap();
    assert!(tokens.contains("of which "), "{tokens}");
}
