//! `evaluate` as a user runs it, on a tiny model with a token for each character.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::checkpoint::{Checkpoint, Tensor, write_file};
use common::model::{EMBEDDING, HEAD};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with a model of 96 tokens and 128 positions, and questions that fit it.
struct Fixture {
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { directory: tempfile::tempdir().unwrap() };
        tests::golden_model::write("llama", &fixture.path("model"));
        for (split, rows) in [("dev", "d,1,2,3,4,A\n"), ("test", "q,1,2,3,4,A\nr,5,6,7,8,B\ns s,1,2,3,4,C\n")]
        {
            for subject in ["x", "virology"] {
                fixture.write(&format!("mmlu/{split}/{subject}_{split}.csv"), rows);
            }
        }
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs_err::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs_err::write(self.path(name), text).unwrap();
    }

    /// What is left of the tools' own beside their results.
    fn left(&self) -> Vec<String> {
        let entries = fs_err::read_dir(self.path("")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("qlora-tools")).collect()
    }

    fn read(&self, name: &str) -> String {
        fs_err::read_to_string(self.path(name)).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("evaluate"));
        command.current_dir(self.directory.path()).args(arguments);
        command
    }

    /// Runs `evaluate` without shots, which the tiny model has no room for.
    fn evaluate(&self, more: &[&str]) -> Command {
        self.run(&[&["model", "--data", "mmlu", "--shots", "0"], more].concat())
    }
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

fn failure(command: &mut Command, code: i32) -> String {
    String::from_utf8(command.assert().code(code).get_output().stderr.clone()).unwrap()
}

#[test]
fn the_table_is_the_answer_and_files_hold_the_rest() {
    let fixture = Fixture::new();
    let table = stdout(&mut fixture.evaluate(&["--details", "details.jsonl"]));
    assert!(table.contains("\n  virology      3 ") && table.contains("\n          Other: "), "{table}");
    let report: Value = serde_json::from_str(&fixture.read("reports/model-mmlu.json")).unwrap();
    assert_eq!(report["average"]["n"], 6);
    assert_eq!(report["subjects"]["x"]["answers"], "ABC");
    assert_eq!(report["recipe"]["style"], "lm-eval");
    assert!(fs_err::read(fixture.path("reports/model-mmlu.png")).unwrap().starts_with(b"\x89PNG"));
    let details: Vec<Value> =
        fixture.read("details.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(details.len(), 6);
    assert_eq!((&details[4]["subject"], &details[4]["index"]), (&json!("x"), &json!(1)));

    let again = fixture.evaluate(&[]).assert().success().get_output().clone();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), table);
    assert!(String::from_utf8(again.stderr).unwrap().contains("reports/model-mmlu.json is already made"));
}

#[test]
fn the_prefix_cache_and_the_size_of_passes_change_nothing() {
    let fixture = Fixture::new();
    let logprobs = |arguments: &[&str]| -> Vec<f64> {
        stdout(&mut fixture.evaluate(&[&["--details", "d", "--force"], arguments].concat()));
        let numbers = |line: &str| -> Vec<f64> {
            let value: Value = serde_json::from_str(line).unwrap();
            value["logprobs"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        fixture.read("d").lines().flat_map(numbers).collect()
    };
    let cached = logprobs(&[]);
    for other in [&["--no-prefix-cache"][..], &["--pass-tokens", "1"], &["--vram-budget", "1MiB"]] {
        for (cached, other) in cached.iter().zip(logprobs(other)) {
            assert!((cached - other).abs() < 1e-4, "{cached} and {other}");
        }
    }
}

#[test]
fn a_report_of_another_evaluation_is_kept() {
    let fixture = Fixture::new();
    stdout(&mut fixture.evaluate(&["--limit", "1", "-o", "r.json"]));
    let error = failure(&mut fixture.evaluate(&["--limit", "2", "-o", "r.json"]), 1);
    assert!(error.contains("r.json exists and is of another evaluation\nhint: --force"), "{error}");
    stdout(&mut fixture.evaluate(&["--limit", "2", "-o", "r.json", "--force"]));
    // Without a name, each evaluation gets one of its own.
    stdout(&mut fixture.evaluate(&["--limit", "1"]));
    stdout(&mut fixture.evaluate(&["--limit", "2"]));
    for (name, n) in [("model-mmlu", 2), ("model-mmlu-2", 4)] {
        let report: Value = serde_json::from_str(&fixture.read(&format!("reports/{name}.json"))).unwrap();
        assert_eq!(report["average"]["n"], n, "{name}");
    }
    stdout(&mut fixture.evaluate(&["--subjects", " x ", "--style", "llamafactory", "-o", "other.json"]));
    let report: Value = serde_json::from_str(&fixture.read("other.json")).unwrap();
    assert_eq!(report["subjects"].as_object().unwrap().len(), 1);
    fixture.write("notes.json", "mine");
    let error = failure(&mut fixture.evaluate(&["-o", "notes.json"]), 1);
    assert!(error.contains("notes.json exists and is not a report"), "{error}");
    assert_eq!(fixture.read("notes.json"), "mine");
}

#[test]
fn a_model_arrives_through_a_pipe() {
    let fixture = Fixture::new();
    let mut command = fixture.run(&["--data", "mmlu", "--shots", "0"]);
    assert!(stdout(command.write_stdin("model\n")).contains("Average"));
}

#[test]
fn what_cannot_be_evaluated_is_said() {
    let fixture = Fixture::new();
    let error = failure(&mut fixture.evaluate(&["--subjects", "y"]), 2);
    assert!(error.contains("no subject \"y\"\nhint: it has virology, x"), "{error}");
    let error = failure(&mut fixture.run(&["model", "--data", "mmlu"]), 1);
    assert!(error.contains("1 dev questions on virology, --shots 5"), "{error}");
    failure(&mut fixture.run(&["model", "--data", "mmlu", "--loss", "rows.json"]), 2);
    let error = failure(&mut fixture.run(&["no/model", "--data", "mmlu"]), 1);
    assert!(error.contains("no/model"), "{error}");
    fixture.write("broken/test/x_test.csv", "q,1,2,3,4,A\n\"un, closed,1,2,3,4,B\n");
    let error = failure(&mut fixture.run(&["model", "--data", "broken", "--shots", "0"]), 1);
    assert!(error.contains("broken/test/x_test.csv: line 2: 6 fields expected"), "{error}");
    assert!(error.contains("\nhint: mend the row"), "{error}");
    assert!(!fixture.path("reports").exists());
}

impl Fixture {
    /// The mean loss that `evaluate --loss` prints.
    fn loss(&self, model: &str) -> f64 {
        self.write(
            "rows.json",
            r#"[{"instruction": "ab", "output": "cde"}, {"instruction": "x", "output": "yz"}]"#,
        );
        let report = format!("{model}.json");
        stdout(&mut self.run(&[model, "--loss", "rows.json", "-o", &report, "--force"]));
        let report: Value = serde_json::from_str(&self.read(&report)).unwrap();
        report["models"][0]["loss"].as_f64().unwrap()
    }

    /// The model in another directory, with other keys in its config.json and other tensors.
    fn variant(&self, name: &str, keys: &Value, tensors: impl Fn(Vec<Tensor>) -> Vec<Tensor>) {
        fs_err::create_dir_all(self.path(name)).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs_err::copy(self.path("model").join(file), self.path(name).join(file)).unwrap();
        }
        let mut config: Value = serde_json::from_str(&self.read("model/config.json")).unwrap();
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        self.write(&format!("{name}/config.json"), &config.to_string());
        let all: Vec<Tensor> = Checkpoint::open(&self.path("model")).unwrap().tensors().collect();
        write_file(&self.path(name).join("model.safetensors"), &tensors(all)).unwrap();
    }
}

/// A tensor under another name.
fn named(tensor: Tensor, name: impl Into<String>) -> Tensor {
    Tensor { name: name.into(), ..tensor }
}

/// The golden llama is not tied, so that its loss is the right one wherever its head is stored.
#[test]
fn a_stored_head_is_read_though_config_says_tied() {
    let fixture = Fixture::new();
    let right = fixture.loss("model");
    let tied = json!({"tie_word_embeddings": true});
    fixture.variant("stored", &tied, |all| all);
    assert_eq!(fixture.loss("stored"), right);
    let without_head = |all: Vec<Tensor>| all.into_iter().filter(|tensor| tensor.name != HEAD).collect();
    fixture.variant("shared", &tied, without_head);
    let shared = fixture.loss("shared");
    assert!((shared - right).abs() > 1e-3, "the table is another head");
    // The table once more as the head, and only as the head.
    fixture.variant("twice", &tied, |all| {
        let mut all: Vec<Tensor> = without_head(all);
        let table = all.iter().find(|tensor| tensor.name == EMBEDDING).unwrap().clone();
        all.push(named(table, HEAD));
        all
    });
    fixture.variant("as-head", &tied, |all| {
        let name = |tensor: Tensor| if tensor.name == EMBEDDING { named(tensor, HEAD) } else { tensor };
        without_head(all).into_iter().map(name).collect()
    });
    assert_eq!([fixture.loss("twice"), fixture.loss("as-head")], [shared; 2]);
    let error = failure(&mut fixture.run(&["missing", "--loss", "rows.json"]), 1);
    assert!(!error.is_empty());
}

#[test]
fn names_of_a_model_without_its_head_are_read_and_wrapped_ones_are_not() {
    let fixture = Fixture::new();
    let right = fixture.loss("model");
    let rename = |rename: fn(&str) -> String| {
        move |all: Vec<Tensor>| -> Vec<Tensor> {
            all.into_iter().map(|tensor| named(tensor.clone(), rename(&tensor.name))).collect()
        }
    };
    fixture.variant("bare", &json!({}), rename(|name| name.trim_start_matches("model.").into()));
    assert_eq!(fixture.loss("bare"), right);
    fixture.variant("wrapped", &json!({}), rename(|name| format!("_orig_mod.{name}")));
    let error = failure(&mut fixture.run(&["wrapped", "--loss", "rows.json"]), 1);
    assert!(error.contains("torch.compile") && error.contains("hint: save the model inside"), "{error}");
    fixture.variant("both", &json!({}), |all| {
        let norm = all.iter().find(|tensor| tensor.name == "model.norm.weight").unwrap().clone();
        all.into_iter().chain([named(norm, "norm.weight")]).collect()
    });
    let error = failure(&mut fixture.run(&["both", "--loss", "rows.json"]), 1);
    assert!(error.contains("norm.weight"), "{error}");
}

#[test]
fn other_quantizations_are_refused_with_the_original() {
    let fixture = Fixture::new();
    fixture.loss("model");
    for method in ["gptq", "awq", "fp8", "compressed-tensors"] {
        let keys = json!({"quantization_config": {"quant_method": method}, "_name_or_path": "a/model"});
        fixture.variant("packed", &keys, |all| all);
        let error = failure(&mut fixture.run(&["packed"]), 1);
        let said = format!("quantized with {method}, which is not read");
        assert!(error.contains(&said) && error.contains("fetch a/model"), "{error}");
    }
}

#[test]
fn a_window_hides_what_lies_before_it() {
    let fixture = Fixture::new();
    let right = fixture.loss("model");
    // Mistral is Llama with a window.
    let mistral = |window: usize| json!({"model_type": "mistral", "sliding_window": window});
    fixture.variant("wide", &mistral(64), |all| all);
    assert_eq!(fixture.loss("wide"), right, "all is within the window");
    fixture.variant("narrow", &mistral(2), |all| all);
    assert!((fixture.loss("narrow") - right).abs() > 1e-3, "a window of two tokens hides the others");
}

#[test]
fn what_cannot_be_written_is_said_before_it_is_computed() {
    let fixture = Fixture::new();
    fixture.write("rows.json", r#"[{"instruction": "a", "output": "b"}]"#);
    for arguments in [
        &["model", "--data", "mmlu", "--shots", "0", "-o", "none/there"][..],
        &["model", "--data", "mmlu", "--shots", "0", "--details", "none/there"],
        &["model", "--loss", "rows.json", "-o", "none/there"],
        &["model", "--loss", "rows.json", "--details", "none/there"],
    ] {
        let error = failure(&mut fixture.run(arguments), 1);
        let expected = "evaluate: error: none/there: there is no directory none\nhint: mkdir -p none\n";
        assert_eq!(error, expected, "{arguments:?}");
    }
    let error = failure(&mut fixture.evaluate(&["-o", "mmlu"]), 1);
    assert!(error.contains("is a directory") && error.contains("hint: -o names the file"), "{error}");
    assert_eq!(fixture.left(), [""; 0]);
}

#[test]
fn what_is_scored_outlives_a_report_that_cannot_be_written() {
    let fixture = Fixture::new();
    // The chart is larger than a file may be, which kills the run.
    let mut command = Command::new("sh");
    command.current_dir(fixture.path("")).args(["-c", "ulimit -f 16; exec \"$0\" \"$@\""]);
    command.arg(assert_cmd::cargo::cargo_bin("evaluate")).args([
        "model",
        "--data",
        "mmlu",
        "--shots",
        "0",
        "-o",
        "report.json",
    ]);
    command.env("XDG_CACHE_HOME", fixture.path("cache")).assert().failure();
    assert!(!fixture.path("report.json").exists() && !fixture.path("report.png").exists());
    let mut again = fixture.evaluate(&["-o", "report.json"]);
    let again = again.assert().success().get_output().clone();
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(said.contains("2 of 2 subjects are scored already"), "{said}");
    assert_eq!(fixture.left(), [""; 0]);
}

#[test]
fn an_output_has_nothing_to_do_with_an_input() {
    let fixture = Fixture::new();
    fixture.write("rows.json", r#"[{"instruction": "a", "output": "b"}]"#);
    std::os::unix::fs::symlink("model", fixture.path("link")).unwrap();
    let config = fixture.read("model/config.json");
    for force in [&[][..], &["--force"]] {
        for (output, relation) in [("model/config.json", "lies in"), ("link/new.json", "lies in")] {
            let refused = |arguments: &[&str]| {
                let arguments = [arguments, force].concat();
                let error = failure(&mut fixture.run(&arguments), 2);
                assert!(error.contains(relation) && error.contains("\nhint: "), "{arguments:?}: {error}");
            };
            // A report that is not one is refused for that first.
            if !force.is_empty() || output != "model/config.json" {
                refused(&["model", "--data", "mmlu", "--shots", "0", "-o", output]);
            }
            refused(&["model", "--data", "mmlu", "--shots", "0", "--details", output]);
            refused(&["model", "--loss", "rows.json", "-o", output]);
            refused(&["model", "--loss", "rows.json", "--details", output]);
        }
        let arguments = [&["model", "--loss", "rows.json", "-o", "rows.json"][..], force].concat();
        assert!(failure(&mut fixture.run(&arguments), 2).contains("is the input rows.json"));
    }
    assert_eq!(fixture.read("model/config.json"), config);
    assert!(!fixture.path("model/new.json").exists() && !fixture.path("report.json").exists());
}

#[test]
fn names_that_people_use_are_theirs() {
    let fixture = Fixture::new();
    let mine = ["report.json.partial", "report.json.lock", "report.json.new", ".tmp_thesis.tex"];
    mine.iter().for_each(|name| fixture.write(name, "mine"));
    stdout(&mut fixture.evaluate(&["-o", "report.json"]));
    mine.iter().for_each(|name| assert_eq!(fixture.read(name), "mine"));
    // A picture that is not of a report stays, with --force too.
    fixture.write("r.png", "mine");
    for force in [&[][..], &["--force"]] {
        let error = failure(&mut fixture.evaluate(&[&["-o", "r.json"], force].concat()), 1);
        assert!(error.contains("r.png exists, where the chart of r.json would be"), "{error}");
    }
    assert_eq!(fixture.read("r.png"), "mine");
    assert!(failure(&mut fixture.evaluate(&["-o", "x.png"]), 2).contains("hint: -o x.json"));
    fixture.write("d.jsonl", "mine");
    let error = failure(&mut fixture.evaluate(&["-o", "r2.json", "--details", "d.jsonl"]), 1);
    assert!(error.contains("d.jsonl exists"), "{error}");
    assert_eq!((fixture.read("d.jsonl").as_str(), fixture.path("r2.json").exists()), ("mine", false));
    stdout(&mut fixture.evaluate(&["-o", "r2.json", "--details", "d.jsonl", "--force"]));
    assert_ne!(fixture.read("d.jsonl"), "mine");
    assert_eq!(fixture.left(), [""; 0]);
}

#[test]
fn nothing_is_written_through_a_link() {
    let fixture = Fixture::new();
    fixture.write("rows.json", r#"[{"instruction": "a", "output": "b"}]"#);
    fixture.write("bashrc", "mine");
    for (target, name) in
        [("bashrc", "r.json"), ("bashrc", "p.png"), ("nothing", "dangling"), ("/dev/null", "null")]
    {
        std::os::unix::fs::symlink(target, fixture.path(name)).unwrap();
    }
    for arguments in [
        &["model", "--data", "mmlu", "--shots", "0", "-o", "r.json", "--force"][..],
        &["model", "--data", "mmlu", "--shots", "0", "-o", "p.json", "--force"],
        &["model", "--data", "mmlu", "--shots", "0", "--details", "r.json", "--force"],
        &["model", "--loss", "rows.json", "-o", "dangling", "--force"],
        &["model", "--loss", "rows.json", "--details", "null", "--force"],
    ] {
        failure(&mut fixture.run(arguments), 1);
    }
    assert_eq!(fixture.read("bashrc"), "mine");
    assert!(!fixture.path("nothing").exists());
    assert_eq!(fixture.left(), [""; 0]);
}

#[test]
fn every_state_that_a_kill_leaves_is_left_again() {
    let fixture = Fixture::new();
    let arguments = ["-o", "report.json", "--details", "d.jsonl"];
    stdout(&mut fixture.evaluate(&arguments));
    let [whole, details] = ["report.json", "d.jsonl"].map(|name| fixture.read(name));
    let chart = fs_err::read(fixture.path("report.png")).unwrap();
    let predictions = |text: &str| serde_json::from_str::<Value>(text).unwrap()["subjects"].clone();
    // The report has its name and the others have not, one has, both have and only the rest is left.
    for gone in [&["report.png", "d.jsonl"][..], &["d.jsonl"], &["report.png"], &[]] {
        gone.iter().for_each(|name| fs_err::remove_file(fixture.path(name)).unwrap());
        for name in ["report.json", "report.png", "d.jsonl"] {
            fixture.write(&format!(".{name}.qlora-tools/lock"), "qlora-tools evaluate\n");
            fixture.write(&format!(".{name}.qlora-tools/file"), "half");
        }
        stdout(&mut fixture.evaluate(&arguments));
        assert_eq!(predictions(&fixture.read("report.json")), predictions(&whole), "{gone:?}");
        assert_eq!(fixture.read("d.jsonl"), details, "{gone:?}");
        assert_eq!(fs_err::read(fixture.path("report.png")).unwrap(), chart, "{gone:?}");
        assert_eq!(fixture.left(), [""; 0], "{gone:?}");
    }
}

#[test]
fn two_reports_are_compared() {
    let fixture = Fixture::new();
    stdout(&mut fixture.evaluate(&["-o", "a.json"]));
    stdout(&mut fixture.evaluate(&["-o", "b.json", "--no-prefix-cache"]));
    let table = stdout(&mut fixture.run(&["--compare", "a.json", "b.json"]));
    assert!(table.contains("   +0.00  difference over 6 questions"), "{table}");
    stdout(&mut fixture.evaluate(&["-o", "c.json", "--limit", "1"]));
    let error = failure(&mut fixture.run(&["--compare", "a.json", "c.json"]), 1);
    assert!(error.contains("of other prompts\nhint: "), "{error}");
    let error = failure(&mut fixture.evaluate(&["--template", "qwen", "-o", "d.json"]), 2);
    assert!(error.contains("--style lm-eval prompts without one"), "{error}");
}

#[test]
fn a_journal_with_other_answers_is_not_believed() {
    let fixture = Fixture::new();
    let whole = stdout(&mut fixture.evaluate(&["-o", "whole.json"]));
    let recipe = serde_json::from_str::<Value>(&fixture.read("whole.json")).unwrap()["recipe"].take();
    for line in [
        json!({"subject": "x", "logprobs": [[-1.0, -2.0, -3.0, -4.0]], "answers": [9]}),
        json!({"subject": "x", "logprobs": [[-1.0, -2.0, -3.0, -4.0]], "answers": [0]}),
        json!({"subject": "x", "logprobs": vec![[-1.0, -2.0, -3.0, -4.0]; 3], "answers": [2, 1, 0]}),
    ] {
        fixture.write(".r.json.qlora-tools/lock", "qlora-tools evaluate\n");
        fixture.write(".r.json.qlora-tools/journal", &format!("{recipe}\n{line}\n"));
        assert_eq!(stdout(&mut fixture.evaluate(&["-o", "r.json"])), whole, "{line}");
        for name in ["r.json", "r.png"] {
            fs_err::remove_file(fixture.path(name)).unwrap();
        }
    }
}

#[test]
fn endless_files_are_refused() {
    let fixture = Fixture::new();
    fs_err::create_dir_all(fixture.path("odd/test")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", fixture.path("odd/test/x_test.csv")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", fixture.path("zero.zip")).unwrap();
    for data in ["odd", "zero.zip", "/dev/zero"] {
        let error = failure(&mut fixture.run(&["model", "--data", data, "--shots", "0"]), 1);
        assert!(error.contains("hint: "), "{data}: {error}");
    }
    let error = failure(&mut fixture.run(&["--compare", "/dev/zero", "/dev/zero"]), 1);
    assert!(error.contains("not a regular file\nhint: --compare takes two reports"), "{error}");
}

#[test]
fn a_loss_that_is_not_a_number_fails() {
    let fixture = Fixture::new();
    fixture.write("rows.json", r#"[{"instruction": "a", "output": "b"}]"#);
    let weights = fixture.path("model/model.safetensors");
    let mut bytes = fs_err::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs_err::write(&weights, bytes).unwrap();
    let error = failure(&mut fixture.run(&["model", "--loss", "rows.json"]), 1);
    assert!(error.contains("model: the model's loss is NaN") && error.contains("hint: "), "{error}");
}

/// The file of the tiny model as llama.cpp's converter made it, with the tokenizer in it.
#[test]
fn a_gguf_file_is_evaluated_as_a_model() {
    let fixture = Fixture::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/gguf");
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs_err::copy(golden.join("tokenizers/bpe").join(name), fixture.path("model").join(name)).unwrap();
    }
    fs_err::copy(golden.join("llama.gguf"), fixture.path("model.gguf")).unwrap();
    fixture.write("rows.json", r#"[{"instruction": "a fox", "output": "runs over the dog"}]"#);
    stdout(&mut fixture.run(&["model", "model.gguf", "--loss", "rows.json", "-o", "loss.json"]));
    let report: Value = serde_json::from_str(&fixture.read("loss.json")).unwrap();
    let models = report["models"].as_array().unwrap();
    let losses: Vec<f64> = models.iter().map(|model| model["loss"].as_f64().unwrap()).collect();
    assert!((losses[0] - losses[1]).abs() < 1e-4 && losses[0] > 1.0, "{losses:?}");
    assert_eq!(models[1]["model"]["path"], "model.gguf");
    assert_ne!(models[0]["model"]["fingerprint"], models[1]["model"]["fingerprint"]);

    let mut evaluate = fixture.run(&["--data", "mmlu", "--shots", "1", "-o", "report.json"]);
    let piped = format!("{}\n", fixture.path("model.gguf").display());
    stdout(evaluate.write_stdin(piped));
    let again =
        stdout(&mut fixture.run(&["model.gguf", "--data", "mmlu", "--shots", "1", "-o", "other.json"]));
    assert!(again.contains("x"), "{again}");
    let table = stdout(&mut fixture.run(&["--compare", "report.json", "other.json"]));
    assert!(table.contains("+0.00  difference"), "{table}");
}
