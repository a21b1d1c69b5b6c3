//! A run from beginning to end: learning, resuming, refusing.

use std::path::Path;

use common::adapter::Adapter;
use serde_json::Value;

use crate::place::Place;

pub(crate) const RUN: &str = "model --data data.json --learning-rate 1e-2 --logging-steps 1 \
    --per-device-train-batch-size 2 --gradient-accumulation-steps 2";

#[test]
fn it_learns_and_leaves_the_base_alone() {
    let place = Place::new();
    let base = std::fs::read(place.path("model/model.safetensors")).unwrap();
    let stdout = place.train(&format!("{RUN} -o out --num-train-epochs 8"));
    assert_eq!(stdout, "out\n");
    let losses = place.losses("out");
    assert_eq!(losses.len(), 24);
    assert!(losses[23] < 0.5 * losses[0], "{losses:?}");
    assert_eq!(base, std::fs::read(place.path("model/model.safetensors")).unwrap());
    let adapter = Adapter::load(&place.path("out")).unwrap();
    assert_eq!(adapter.modules.len(), 14);
    for (name, lora) in &adapter.modules {
        assert!(lora.b.iter().any(|&value| value != 0.0), "{name} has learned nothing");
    }
    let base = adapter.config.base_model_name_or_path.unwrap();
    assert_eq!(Path::new(&base), std::fs::canonicalize(place.path("model")).unwrap());
}

#[test]
fn the_header_and_the_files_are_those_people_know() {
    let place = Place::new();
    let arguments = format!("{RUN} -o out --max-steps 2 --val-size 0.25 --eval-steps 1");
    let run = place.command(&arguments).output().unwrap();
    let stderr = String::from_utf8(run.stderr).unwrap();
    for line in [
        "Num examples = 9",
        "Num Epochs = 1",
        "Instantaneous batch size per device = 2",
        "Gradient Accumulation steps = 2",
        "Total train batch size = 4",
        "Total optimization steps = 2",
        "Number of trainable parameters = 16384",
    ] {
        assert!(stderr.contains(line), "{line} is missing from {stderr}");
    }
    let json = |file: &str| -> Value { place.json(&format!("out/{file}")) };
    assert_eq!(json("trainer_state.json")["global_step"], 2);
    let history = json("trainer_state.json")["log_history"].clone();
    assert_eq!(
        history.as_array().unwrap().iter().filter(|entry| entry.get("eval_loss").is_some()).count(),
        2
    );
    assert!(json("all_results.json")["train_loss"].as_f64().unwrap() > 0.0);
    for file in ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "checkpoint-2"] {
        assert!(place.path("out").join(file).exists(), "{file}");
    }
}

#[test]
fn resumed_is_never_stopped() {
    let place = Place::new();
    // The checkpoint of step 3 has a loss that is not logged yet.
    let run = RUN.replace("--logging-steps 1", "--logging-steps 2");
    let run = format!("{run} --max-steps 7 --save-steps 3 --lr-scheduler-type cosine --warmup-ratio 0.2");
    place.train(&format!("{run} -o whole"));
    place.train(&format!("{run} -o stopped"));
    // What a run that was killed after its first checkpoint leaves.
    for name in ["checkpoint-6", "checkpoint-7"] {
        std::fs::remove_dir_all(place.path("stopped").join(name)).unwrap();
    }
    for name in ["made-by.json", "adapter_model.safetensors", "adapter_config.json"] {
        std::fs::remove_file(place.path("stopped").join(name)).unwrap();
    }
    let (code, message) = place.fail(&format!("{run} -o stopped"));
    assert_eq!(code, 1);
    assert!(message.contains("unfinished run of 3 steps") && message.contains("hint: --resume"), "{message}");
    let (_, message) = place.fail(&format!("{run} -o stopped --resume --seed 1"));
    assert!(message.contains("seed was 42, now 1"), "{message}");
    place.train(&format!("{run} -o stopped --resume"));
    assert_eq!(place.adapter("whole"), place.adapter("stopped"));
    assert_eq!(place.losses("whole"), place.losses("stopped"));
    let loss = |output: &str| place.json(&format!("{output}/train_results.json"))["train_loss"].clone();
    assert_eq!(loss("whole"), loss("stopped"));
}

#[test]
fn how_a_batch_is_cut_changes_nothing() {
    let place = Place::new();
    let run = "model --data data.json --learning-rate 1e-2 --logging-steps 1 --max-steps 3";
    let cut = |batch: usize, accumulation: usize| {
        let output = format!("out-{batch}");
        place.train(&format!(
            "{run} -o {output} --per-device-train-batch-size {batch} --gradient-accumulation-steps {accumulation}"
        ));
        place.adapter(&output)
    };
    assert_eq!(cut(1, 4), cut(4, 1));
}

#[test]
fn a_finished_run_is_not_trained_again() {
    let place = Place::new();
    let run = format!("{RUN} -o out --max-steps 2");
    place.train(&run);
    let first = std::fs::metadata(place.path("out/adapter_model.safetensors")).unwrap().modified().unwrap();
    assert_eq!(place.train(&run), "out\n");
    let second = std::fs::metadata(place.path("out/adapter_model.safetensors")).unwrap().modified().unwrap();
    assert_eq!(first, second);
    let (code, message) = place.fail(&format!("{RUN} -o out --max-steps 3"));
    assert!(code == 1 && message.contains("a finished run of 2 steps, not of 3 steps"), "{message}");
    let (code, message) = place.fail(&format!("{RUN} -o out --max-steps 2 --seed 1"));
    assert!(code == 1 && message.contains("--force replaces it"), "{message}");
    place.train(&format!("{RUN} -o out --max-steps 3 --force"));
    assert_eq!(place.losses("out").len(), 3);
}

#[test]
fn an_adapter_can_be_continued() {
    let place = Place::new();
    place.train(&format!("{RUN} -o first --max-steps 4"));
    place.train(&format!("{RUN} -o second --max-steps 1 --adapter-name-or-path first"));
    let (first, second) = (place.losses("first"), place.losses("second"));
    assert!(second[0] < 0.8 * first[0], "{first:?} then {second:?}");
}

#[test]
fn a_pipe_gives_the_model() {
    let place = Place::new();
    let mut command = place.command("--data data.json -o out --max-steps 1");
    let run = command.write_stdin("model\n").output().unwrap();
    assert_eq!(String::from_utf8(run.stdout).unwrap(), "out\n");
    let mut command = place.command("--data data.json -o out2 --max-steps 1");
    let run = command.write_stdin("").output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8(run.stderr).unwrap().contains("nothing arrived"));
}

#[test]
fn mistakes_are_named_and_leave_nothing() {
    let place = Place::new();
    std::fs::write(place.path("empty.json"), "[]").unwrap();
    std::fs::write(place.path("bad.json"), r#"[{"instruction": "a", "output": 3}]"#).unwrap();
    std::fs::create_dir(place.path("nothing")).unwrap();
    for (arguments, code, named) in [
        ("model --data missing.json -o out", 1, "missing.json"),
        ("model --data empty.json -o out", 1, "no rows"),
        ("model --data bad.json -o out", 1, "bad.json"),
        ("nothing --data data.json -o out", 1, "tokenizer"),
        ("model --data data.json -o out --lora-target z_proj", 2, "z_proj"),
        ("model --data data.json -o out --learning-rate 0", 2, "--learning-rate"),
        ("model --data data.json -o out --eval-steps 1", 2, "--val-size"),
        ("model --data data.json -o out --device cuda9", 2, "cuda9"),
        ("model --data data.json -o out --resume", 1, "no checkpoint"),
        ("model --data data.json -o out --cutoff-len 4", 1, "no token is trained"),
        ("absent --data data.json -o out", 1, "absent"),
        ("model -o out", 2, "--data"),
    ] {
        let (found, message) = place.fail(arguments);
        assert_eq!(found, code, "{arguments}: {message}");
        assert!(message.contains(named), "{arguments}: {message}");
        assert!(!place.path("out/adapter_model.safetensors").exists(), "{arguments}");
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run() {
    let place = Place::new();
    let run = "model --data data.json -o out --learning-rate 1e30 --max-grad-norm 0 --max-steps 40";
    let (code, message) = place.fail(run);
    assert_eq!(code, 1);
    assert!(message.contains("step ") && message.contains("hint:"), "{message}");
    assert!(!place.path("out/adapter_model.safetensors").exists());
}
