//! Several models in one call, losses, and questions that are fetched, through the binary.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::PathBuf;

use assert_cmd::Command;
use common::device::Device;
use common::model::{Batch, Model, Sequence};
use common::text::labels::encode_conversation;
use common::text::{ChatTemplate, Conversation, LabelOptions, Message, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

const QUESTIONS: &str = "q,1,2,3,4,A\nr,5,6,7,8,B\ns s,1,2,3,4,C\nt,4,5,6,7,D\n";

/// A model, two adapters of it, questions and instructions.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        tests::tiny_model::write(&place.path("model"), 7);
        for (name, seed) in [("out/checkpoint-1", 1), ("out/checkpoint-2", 2)] {
            tests::tiny_model::write_adapter(&place.path("model"), &place.path(name), seed);
        }
        place.write("mmlu/test/astronomy_test.csv", QUESTIONS);
        let row = |i: usize| json!({"instruction": format!("Say {i}."), "output": "so ".repeat(i + 1)});
        place.write("rows.json", &Value::from_iter((0..6).map(row)).to_string());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs_err::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs_err::write(self.path(name), text).unwrap();
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&fs_err::read_to_string(self.path(name)).unwrap()).unwrap()
    }

    fn evaluate(&self, arguments: &str) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("evaluate"));
        command.current_dir(self.directory.path()).args(arguments.split_whitespace());
        command
    }

    fn stdout(&self, arguments: &str) -> String {
        let output = self.evaluate(arguments).assert().success().get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    }

    fn error(&self, arguments: &str, code: i32) -> String {
        String::from_utf8(self.evaluate(arguments).assert().code(code).get_output().stderr.clone()).unwrap()
    }
}

const ASKED: &str = "--data mmlu --shots 0 --style llamafactory";

#[test]
fn several_models_are_ranked_and_adapters_share_their_base() {
    let place = Place::new();
    let models = ["out/checkpoint-1", "out/checkpoint-2", "model"];
    let output = place.evaluate(&format!("{} {ASKED} -v", models.join(" "))).assert().success();
    let output = output.get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("loaded ").count(), 2, "the base once, the model itself once: {said}");
    let ranking = String::from_utf8(output.stdout).unwrap();
    let accuracies: Vec<f64> = ranking
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(accuracies.len(), 3);
    assert!(accuracies.is_sorted_by(|a, b| a >= b), "{ranking}");
    for model in models {
        let alone = format!("{}.json", model.replace('/', "_"));
        place.stdout(&format!("{model} {ASKED} -o {alone} --details {alone}l"));
        let together = place.json(&format!("reports/{}-mmlu.json", model.replace('/', "-")));
        assert_eq!(together["subjects"], place.json(&alone)["subjects"], "{model}");
        assert!(place.path(&format!("reports/{}-mmlu.png", model.replace('/', "-"))).exists());
    }
    let logprobs = |name: &str| fs_err::read_to_string(place.path(name)).unwrap();
    assert_ne!(logprobs("out_checkpoint-1.jsonl"), logprobs("out_checkpoint-2.jsonl"), "adapters matter");

    let again = place.evaluate(&format!("{} {ASKED}", models.join(" "))).assert().success();
    let said = String::from_utf8(again.get_output().stderr.clone()).unwrap();
    assert_eq!(said.matches("is already made").count(), 3, "{said}");
    assert_eq!(String::from_utf8(again.get_output().stdout.clone()).unwrap(), ranking);
    place.stdout(&format!("model ./out/../model {ASKED}"));
    assert!(!place.path("reports/model-mmlu-2.json").exists(), "one evaluation, one report");
    let error = place.error(&format!("model out/checkpoint-1 {ASKED} --details d"), 2);
    assert!(error.contains("--details: one model expected"), "{error}");
}

#[test]
fn the_loss_is_that_of_every_answers_tokens() {
    let place = Place::new();
    let table = place.stdout("model out/checkpoint-1 --loss rows.json -o loss.json");
    let directory = place.path("model");
    let model = Model::load(&directory, &Device::Cpu).unwrap();
    let tokenizer = Tokenizer::load(&directory).unwrap();
    let template = ChatTemplate::load(&directory, &tokenizer).unwrap();
    let mut alone = Vec::new();
    for i in 0..6 {
        let messages =
            vec![Message::new("user", format!("Say {i}.")), Message::new("assistant", "so ".repeat(i + 1))];
        let conversation = Conversation { messages, tools: Vec::new() };
        let options = LabelOptions::answers(2048);
        let example = encode_conversation(&tokenizer, &template, &conversation, &options).unwrap().example;
        let sequence = Sequence { tokens: &example.tokens, trained: &example.trained };
        let loss = model.loss(&Batch::pack([sequence], 0)).unwrap();
        alone.push((loss.sum, loss.tokens));
    }
    let sum: f64 = alone.iter().map(|(sum, _)| sum).sum();
    let tokens: usize = alone.iter().map(|(_, tokens)| tokens).sum();
    let report = place.json("loss.json");
    let found = report["models"].as_array().unwrap();
    let of_model = found.iter().find(|entry| entry["model"]["path"] == "model").unwrap();
    let mean = of_model["loss"].as_f64().unwrap();
    assert!((mean - sum / tokens as f64).abs() < 1e-6, "{mean}, one by one {}", sum / tokens as f64);
    assert!((of_model["perplexity"].as_f64().unwrap() - mean.exp()).abs() < 1e-9);
    assert_eq!((&of_model["tokens"], &of_model["examples"]), (&json!(tokens), &json!(6)));
    assert_eq!(table.lines().count(), 3);
    assert!(table.contains(&format!("{mean:>8.4}")), "{table}");
    assert_eq!(table, place.stdout("model out/checkpoint-1 --loss rows.json --pass-tokens 1"));
    let table = place.stdout("model --loss rows.json --details rows.jsonl");
    assert!(table.contains(&format!("{mean:>8.4}")), "{table}");
    let details = fs_err::read_to_string(place.path("rows.jsonl")).unwrap();
    let details: Vec<Value> = details.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        details.iter().map(|line| line["row"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    for (line, (own, count)) in details.iter().zip(alone) {
        assert_eq!(line["tokens"], count);
        assert!((line["loss"].as_f64().unwrap() - own / count as f64).abs() < 1e-6, "{line}");
    }
    assert!(place.error("model --loss rows.json --details rows.jsonl", 1).contains("rows.jsonl exists"));
    let error = place.error("model out/checkpoint-1 --loss rows.json --details d", 2);
    assert!(error.contains("--details: one model expected"), "{error}");
    assert!(place.error("model --loss rows.json -o loss.json", 1).contains("loss.json exists"));
    let error = place.error("model --loss rows.json --cutoff-len 1", 1);
    assert!(error.contains("no answer to compute a loss of\nhint: raise --cutoff-len"), "{error}");
}

#[test]
fn questions_are_fetched_once_where_none_are_named() {
    let Some(_) = tests::needs::fetch() else { return };
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/rows/questions.parquet");
    let rows = fs_err::read(golden).unwrap();
    let file = |name: &str| tests::hub::HubFile::with(name, rows.clone(), false);
    let hub = tests::hub::Hub::start(vec![
        file("all/test-00000-of-00001.parquet"),
        file("all/dev-00000-of-00001.parquet"),
        file("auxiliary_train/train-00000-of-00001.parquet"),
    ]);
    let place = Place::new();
    let run = |output: &str| {
        let mut command = place.evaluate(&format!("model --shots 1 --style llamafactory -o {output}"));
        command.env("HF_ENDPOINT", hub.url()).env("XDG_CACHE_HOME", place.path("cache"));
        String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap()
    };
    assert!(run("a.json").contains("downloading cais/mmlu into "));
    assert_eq!(place.json("a.json")["subjects"]["astronomy"]["answers"], "AD");
    let downloaded = place.path("cache/qlora-tools/questions/cais--mmlu");
    assert!(downloaded.join("all/dev-00000-of-00001.parquet").exists());
    assert!(!downloaded.join("auxiliary_train").exists(), "only what is asked or shown");
    let requests = hub.log().len();
    assert!(!run("b.json").contains("downloading"));
    assert_eq!(hub.log().len(), requests + 1, "whether they have changed");
}

#[test]
fn chinese_questions_have_their_own_prompts_and_keys() {
    let place = Place::new();
    let rows = "id,question,A,B,C,D,answer,explanation\n0,甲,1,2,3,4,B,\n1,乙,1,2,3,4,C,\n";
    place.write("ceval/val/logic_val.csv", rows);
    let table = place.stdout("model --task ceval --data ceval --shots 0 --style llamafactory");
    assert!(table.contains("Humanities\n  logic"), "{table}");
    let report = place.json("reports/model-ceval.json");
    assert_eq!((&report["recipe"]["task"], &report["recipe"]["split"]), (&json!("ceval"), &json!("val")));
    assert_eq!(report["results"]["ceval-valid_logic"]["sample_len"], 2);
    let error = place.error("model --data ceval --split val --shots 0 --force", 2);
    assert!(error.contains("logic is a subject of C-Eval, not of MMLU\nhint: add --task ceval"), "{error}");
    let error = place.error("model --task ceval --data ceval --style hendrycks", 2);
    assert!(error.contains("--style hendrycks asks MMLU, not C-Eval"), "{error}");
}
