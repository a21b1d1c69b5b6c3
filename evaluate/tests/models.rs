//! Several models in one call, losses, and questions that are fetched, through the binaries; what is
//! sampled from a small model.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::PathBuf;

use assert_cmd::Command;
use common::device::{Device, Vector};
use common::model::{AdapterSettings, Batch, Cache, Initialization, Model, Sequence};
use common::text::labels::encode_conversation;
use common::text::{ChatTemplate, Conversation, LabelOptions, Message, Tokenizer};
use evaluate::chat::generate::{Generator, ModelEngine};
use evaluate::chat::settings::Settings;
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
            place.adapter(name, seed);
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

    /// An adapter that changes every answer.
    fn adapter(&self, name: &str, seed: u64) {
        let mut model = Model::load(&self.path("model"), &Device::Cpu).unwrap();
        let options = AdapterSettings {
            rank: 4,
            alpha: 8.0,
            rank_stabilized: false,
            targets: Vec::new(),
            initialization: Initialization::Gaussian,
            seed,
        };
        model.add_adapters(&options).unwrap();
        let shake = |parameters: &mut Vector| {
            for (index, value) in parameters.host_mut()?.iter_mut().enumerate() {
                *value += ((index as u64 * (seed + 3)) % 17) as f32 / 40.0 - 0.2;
            }
            Ok(())
        };
        model.update_parameters(shake).unwrap();
        let base = self.path("model").display().to_string();
        let config = common::adapter::AdapterConfig::new(base, 4, 8.0, vec!["q_proj".into()]);
        fs_err::create_dir_all(self.path(name)).unwrap();
        model.adapter(config).unwrap().save(&self.path(name)).unwrap();
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

/// The value that a chi-square of so many degrees of freedom exceeds once in 10,000 times, by Wilson
/// and Hilferty (1931).
fn chi_square_limit(freedom: usize) -> f64 {
    let k = freedom as f64;
    k * (1.0 - 2.0 / (9.0 * k) + 3.719 * (2.0 / (9.0 * k)).sqrt()).powi(3)
}

#[test]
fn answers_are_drawn_from_the_models_softmax() {
    let place = Place::new();
    let model = Model::load(&place.path("model"), &Device::Cpu).unwrap();
    let prompt: Vec<u32> = (40..60).collect();
    let batch = Batch::prompt(&prompt, 0);
    let logits = model.logits(&batch, &batch.last_rows(), Cache::None).unwrap();
    let weights: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
    let total: f64 = weights.iter().sum();
    let settings = Settings {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        repetition_penalty: 1.0,
        max_new_tokens: 1,
        stops: Vec::new(),
    };
    const DRAWS: usize = 4000;
    let mut counts = vec![0; weights.len()];
    let mut generator = Generator::new(ModelEngine::new(&model, false), 11);
    for _ in 0..DRAWS {
        let count = |token: u32| {
            counts[token as usize] += 1;
            Ok(())
        };
        generator.answer(&prompt, &settings, || false, count).unwrap();
    }
    // Tokens that are expected less than five times are counted together.
    let (mut chi_square, mut bins, mut rest) = (0.0, 0, (0.0, 0));
    let mut add = |expected: f64, found: usize| {
        chi_square += (found as f64 - expected).powi(2) / expected;
        bins += 1;
    };
    for (weight, found) in weights.iter().zip(counts) {
        match weight / total * DRAWS as f64 {
            expected if expected >= 5.0 => add(expected, found),
            expected => rest = (rest.0 + expected, rest.1 + found),
        }
    }
    if rest.0 > 0.0 {
        add(rest.0, rest.1);
    }
    assert!(bins > 20, "{bins} bins say little");
    assert!(chi_square < chi_square_limit(bins - 1), "{chi_square} over {bins} bins");
}

/// Where a template ends an answer with a text that is no token, the answer ends at that text.
#[test]
fn an_answer_ends_at_the_text_that_the_template_ends_it_with() {
    let place = Place::new();
    let chat = |end: &str| {
        let template = format!(
            "{{% for m in messages %}}{{{{ m.role + ': ' + m.content }}}}{{% if m.role == 'assistant' %}}{end}{{% endif %}}\
             {{{{ '\n' }}}}{{% endfor %}}{{% if add_generation_prompt %}}assistant: {{% endif %}}"
        );
        place.write("model/chat_template.jinja", &template);
        let mut chat = Command::cargo_bin("chat").unwrap();
        chat.current_dir(place.directory.path()).args([
            "model",
            "--max-new-tokens",
            "150",
            "--temperature",
            "5",
            "--seed",
            "1",
        ]);
        let output = chat.write_stdin("what is it?\n").assert().success().get_output().clone();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (whole, _) = chat("<|nothing|>");
    // Two letters in the middle of what it says without them.
    let letters: Vec<(usize, char)> = whole.char_indices().collect();
    let is_letter = |c: char| c.is_ascii_alphanumeric();
    let pair = letters.windows(2).skip(3).find(|pair| is_letter(pair[0].1) && is_letter(pair[1].1));
    let begin = pair.expect("two letters in the answer of a random model")[0].0;
    let end = &whole[begin..begin + 2];
    let (short, _) = chat(end);
    assert_eq!(short, format!("{}\n", &whole[..whole.find(end).unwrap()]), "{whole:?} to {end:?}");
    let (_, said) = chat("<|eot_id|>");
    assert!(said.contains("the template writes <|eot_id|>, for which the tokenizer has no tokens"), "{said}");
}

#[test]
fn an_adapter_answers_under_the_settings_of_its_base() {
    let place = Place::new();
    let stored = json!({"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
        "max_new_tokens": 1, "eos_token_id": [259, 10]});
    place.write("model/generation_config.json", &stored.to_string());
    // As older versions and other tools leave an adapter: with a tokenizer, without settings.
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs_err::copy(place.path("model").join(name), place.path("out/checkpoint-1").join(name)).unwrap();
    }
    let settings = |model: &str| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("chat"));
        command.current_dir(place.directory.path()).args([model, "-v", "--seed", "1"]).write_stdin("a\n");
        let said = String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap();
        said.lines().find(|line| line.contains("Settings {")).unwrap().to_owned()
    };
    let of_base = settings("model");
    assert!(of_base.contains("temperature: 0.7, top_p: 0.8, top_k: 20"), "{of_base}");
    assert!(of_base.contains("stops: [10, ") && of_base.contains(", 259]"), "{of_base}");
    assert_eq!(settings("out/checkpoint-1"), of_base);
    // An adapter's own file comes first.
    place.write("out/checkpoint-1/generation_config.json", r#"{"max_new_tokens": 1, "eos_token_id": 258}"#);
    let own = settings("out/checkpoint-1");
    assert!(own.contains("temperature: 0.0") && own.contains("stops: [257, 258]"), "{own}");
}
