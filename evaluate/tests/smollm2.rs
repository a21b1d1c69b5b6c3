//! Scores of a real model against transformers; the goldens are written by scripts/golden/mmlu.py,
//! mmlu_all.py and rope.py.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::{Path, PathBuf};

use common::device::Device;
use common::model::Model;
use common::text::{ChatTemplate, Tokenizer};
use evaluate::passes::PassOptions;
use evaluate::questions::{self, Selection, Style, Subject};
use evaluate::score::{self, Pass, score};
use evaluate::tasks::Task;
use evaluate::texts::Texts;
use serde_json::Value;
use tests::needs;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join("tests/golden").join(name)).unwrap()).unwrap()
}

/// What a style asks, as the tokens of the model.
fn texts(directory: &Path, style: Style) -> Texts {
    let tokenizer = Tokenizer::load(directory).unwrap();
    let template = ChatTemplate::load(directory, &tokenizer).unwrap();
    Texts { tokenizer, template: Some(template), style, shots: 5 }
}

fn subjects(data: &Path, limit: usize) -> Vec<Subject> {
    let (task, subjects) = (Task::default(), Vec::new());
    let selection = Selection { task, split: task.asked, shots: 5, subjects, limit: Some(limit) };
    questions::load(data, &selection).unwrap()
}

/// The log-probabilities of the answers after each prompt of a subject.
fn logprobs(model: &Model, prompts: Vec<Vec<u32>>, answers: &[u32]) -> Vec<Vec<f32>> {
    let mut found = vec![Vec::new(); prompts.len()];
    let passes = score::passes(model, prompts, PassOptions { tokens: 2048, share_prefix: true }).unwrap();
    let passes = (0..passes.len()).map(|index| Pass { name: "", subject: 0, passes: &passes, index });
    let keep = |pass: Pass, rows: Vec<Vec<f32>>| {
        pass.questions().iter().zip(rows).for_each(|(&question, row)| found[question] = row);
        Ok(())
    };
    score(model, answers, passes, keep).unwrap();
    found
}

/// Compares the logprobs of a subject; a prediction may differ where the best two are closer than the
/// tolerance.
fn compare(place: &str, found: &[Vec<f32>], expected: &[Vec<f32>]) {
    const TOLERANCE: f32 = 2e-3;
    assert_eq!(found.len(), expected.len(), "{place}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        for (found, expected) in found.iter().zip(expected) {
            let difference = (found - expected).abs();
            assert!(difference < TOLERANCE, "{place} {index}: {found}, transformers {expected}");
        }
        let best = |of: &[f32]| (1..4).fold(0, |best, i| if of[i] > of[best] { i } else { best });
        let lead = (expected[best(expected)] - expected[best(found)]).abs();
        assert!(lead < TOLERANCE, "{place} {index}: another prediction than transformers'");
    }
}

#[test]
fn logprobs_as_transformers() {
    let Some(directory) = needs::model() else { return };
    let model = Model::load(&directory, &Device::Cpu).unwrap();
    let texts = texts(&directory, Style::LmEval);
    let answers = texts.answers(Task::default()).unwrap();
    let golden = golden("mmlu.json");
    let subjects = subjects(&root().join("scripts/demo/mmlu"), 5);
    let text = Style::LmEval.prompt(&subjects[0], 5, &subjects[0].questions[0]).text(None).unwrap();
    assert_eq!(text, golden["prompt"].as_str().unwrap());
    let mut checked = 0;
    for subject in &subjects {
        let prompts = texts.encode(subject, 8192).unwrap();
        let logprobs = logprobs(&model, prompts.clone(), &answers);
        let of_subject = |case: &&Value| case["subject"] == subject.name;
        let cases: Vec<&Value> = golden["questions"].as_array().unwrap().iter().filter(of_subject).collect();
        let lengths: Vec<&Value> = cases.iter().map(|case| &case["tokens"]).collect();
        assert_eq!(lengths, prompts.iter().map(Vec::len).collect::<Vec<_>>());
        let expected = cases.iter().map(|case| serde_json::from_value(case["logprobs"].clone()).unwrap());
        compare(&subject.name, &logprobs, &expected.collect::<Vec<_>>());
        checked += cases.len();
    }
    assert_eq!(checked, golden["questions"].as_array().unwrap().len());
}

/// Every `step`th subject of MMLU, 20 questions of each, in two styles.
fn mmlu_as_transformers(step: usize) {
    let Some(directory) = needs::model() else { return };
    let Some(data) = needs::shared("data/mmlu.zip") else { return };
    let golden = golden("mmlu_all.json");
    let model = Model::load(&directory, &Device::Cpu).unwrap();
    let subjects = subjects(&data, 20);
    assert_eq!(subjects.len(), 57);
    for style in [Style::LmEval, Style::LlamaFactory] {
        let texts = texts(&directory, style);
        let answers = texts.answers(Task::default()).unwrap();
        for subject in subjects.iter().step_by(step) {
            let place = format!("{} {}", style.name(), subject.name);
            let case = &golden[style.name()][&subject.name];
            let prompts = texts.encode(subject, 8192).unwrap();
            let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
            assert_eq!(case["tokens"], Value::from(lengths), "{place}");
            let logprobs = logprobs(&model, prompts, &answers);
            compare(&place, &logprobs, &serde_json::from_value::<Vec<_>>(case["logprobs"].clone()).unwrap());
        }
    }
}

#[test]
fn subjects_of_mmlu_as_transformers() {
    mmlu_as_transformers(14);
}

#[test]
#[ignore = "takes many minutes"]
fn all_of_mmlu_as_transformers() {
    mmlu_as_transformers(1);
}

/// `rope_scaling` beside `rope_parameters`, as `scripts/golden/rope.py` has it.
#[test]
fn losses_under_scaled_angles_are_transformers() {
    let Some(model) = needs::model() else { return };
    let golden = golden("rope.json")["smollm2"].clone();
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let row = serde_json::json!([{"instruction": golden["question"], "output": golden["answer"]}]);
    std::fs::write(path("rows.json"), row.to_string()).unwrap();
    std::fs::create_dir(path("model")).unwrap();
    for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::os::unix::fs::symlink(model.join(file), path("model").join(file)).unwrap();
    }
    let config = std::fs::read(model.join("config.json")).unwrap();
    for (name, factor) in [("none", 1.0), ("linear 4", 4.0), ("yarn 4", 4.0), ("dynamic 4", 4.0)] {
        let mut config: Value = serde_json::from_slice(&config).unwrap();
        config["rope_parameters"] = serde_json::json!({"rope_type": "default", "rope_theta": 100000.0});
        if factor > 1.0 {
            let kind = name.split(' ').next().unwrap();
            config["rope_scaling"] = serde_json::json!({"type": kind, "factor": factor});
        }
        std::fs::write(path("model/config.json"), config.to_string()).unwrap();
        let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("evaluate"));
        let arguments = ["model", "--loss", "rows.json", "-o", "report.json", "--force", "--device", "cpu"];
        command.current_dir(place.path()).args(arguments).assert().success();
        let report: Value = serde_json::from_slice(&std::fs::read(path("report.json")).unwrap()).unwrap();
        let (found, expected) =
            (report["models"][0]["loss"].as_f64().unwrap(), golden["losses"][name].as_f64().unwrap());
        assert!((found - expected).abs() < 2e-4, "{name}: {found}, transformers {expected}");
    }
}
