//! `chat` as a user runs it, on a tiny model.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with a model.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        tests::tiny_model::write(&place.path("model"), 7);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs_err::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs_err::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs_err::read_to_string(self.path(name)).unwrap()
    }

    fn chat(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("chat"));
        command.current_dir(self.directory.path()).args(arguments);
        command
    }
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

fn failure(command: &mut Command, code: i32) -> String {
    String::from_utf8(command.assert().code(code).get_output().stderr.clone()).unwrap()
}

#[test]
fn chat_answers_every_line_and_a_seed_repeats() {
    let place = Place::new();
    let chat = |more: &[&str], input: &str| {
        let arguments = [&["model", "--max-new-tokens", "8"], more].concat();
        stdout(place.chat(&arguments).write_stdin(input.to_owned()))
    };
    let two = chat(&[], "Hello\n\nHow are you?\n");
    assert_eq!(two, chat(&[], "Hello\n") + &chat(&[], "How are you?\n"), "every line stands for itself");
    let sampled = |seed: &str| chat(&["--temperature", "1.5", "--seed", seed], "Hello\n");
    assert_eq!(sampled("1"), sampled("1"));
    assert!((2..9).any(|seed| sampled(&seed.to_string()) != sampled("1")));
}

#[test]
fn chat_speaks_json_and_keeps_what_was_said() {
    let place = Place::new();
    let arguments = ["model", "--json", "--max-new-tokens", "4", "-o", "said.json"];
    let input = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n[{\"role\": \"user\", \"content\": \"Yo\"}]\n";
    let answers = stdout(place.chat(&arguments).write_stdin(input));
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((answers.len(), &answers[0]["role"]), (2, &json!("assistant")));
    let said: Value = serde_json::from_str(&place.read("said.json")).unwrap();
    assert_eq!(said[1]["messages"][0]["content"], "Yo");
    assert_eq!(said[1]["messages"][1], answers[1]);
    let error = failure(place.chat(&arguments).write_stdin(input), 1);
    assert!(error.contains("said.json exists"), "{error}");
    for (input, expected) in [
        (&b"\n[]\n"[..], "standard input, line 2: no messages"),
        (b"[{\"role\": \"user\"}]\n", "standard input, line 1: message 1 has no content"),
        (b"\xff\n", "standard input, line 1: stream did not contain valid UTF-8"),
    ] {
        let error = failure(place.chat(&["model", "--json"]).write_stdin(input), 1);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_system_message_of_the_conversation_goes_before_the_options() {
    let place = Place::new();
    let messages = |system: &str| {
        let mut messages = vec![json!({"role": "user", "content": "Hi"})];
        if !system.is_empty() {
            messages.insert(0, json!({"role": "system", "content": system}));
        }
        Value::from(messages).to_string()
    };
    let said = |input: String| {
        let arguments =
            ["model", "--json", "--system", "S", "--max-new-tokens", "1", "-o", "said.json", "--force"];
        stdout(place.chat(&arguments).write_stdin(input));
        let said: Value = serde_json::from_str(&place.read("said.json")).unwrap();
        (said[0]["messages"][0]["content"].clone(), said[0]["messages"].as_array().unwrap().len())
    };
    assert_eq!(said(messages("")), (json!("S"), 3));
    assert_eq!(said(messages("own")), (json!("own"), 3));
}

#[test]
fn chat_takes_llama_factorys_file() {
    let place = Place::new();
    place.write("infer.yaml", "model_name_or_path: model\ndo_sample: false\nmax_new_tokens: 3\n");
    let greedy = |arguments: &[&str]| stdout(place.chat(arguments).write_stdin("Hello\n"));
    assert_eq!(greedy(&["infer.yaml"]), greedy(&["model", "--max-new-tokens", "3"]));
    let error = failure(place.chat(&["infer.yaml", "--template", "none"]).write_stdin("Hi\n"), 2);
    assert!(error.contains("no template is called \"none\"\nhint: the names are alpaca, "), "{error}");
}

#[test]
fn a_model_thinks_as_the_options_or_the_file_say() {
    let place = Place::new();
    place.write("infer.yaml", "model_name_or_path: model\ntemplate: qwen3\nenable_thinking: false\n");
    let answer = |arguments: &[&str]| {
        let arguments = [arguments, &["--max-new-tokens", "16", "--temperature", "0"]].concat();
        stdout(place.chat(&arguments).write_stdin("Hello\n"))
    };
    let (thinks, thinks_not) = (
        answer(&["model", "--template", "qwen3"]),
        answer(&["model", "--template", "qwen3", "--enable-thinking", "false"]),
    );
    assert_ne!(thinks, thinks_not, "the prompt has an empty thought");
    assert_eq!(answer(&["infer.yaml"]), thinks_not);
    assert_eq!(answer(&["infer.yaml", "--enable-thinking", "true"]), thinks);
    let mut command = place.chat(&["model", "--enable-thinking", "false", "--max-new-tokens", "1"]);
    let run = command.write_stdin("Hello\n").assert().success();
    let said = String::from_utf8(run.get_output().stderr.clone()).unwrap();
    assert!(said.contains("enable_thinking: the chat template does not read it"), "{said}");
}

#[test]
fn chat_refuses_what_does_not_fit() {
    let place = Place::new();
    let long = "a".repeat(5000) + "\n";
    let error = failure(place.chat(&["model"]).write_stdin(long), 1);
    assert!(error.contains("the message has 5019 tokens, and 3072 fit the model"), "{error}");
    let error = failure(place.chat(&["model", "--top-p", "2"]).write_stdin("Hi\n"), 2);
    assert!(error.contains("--top-p: more than 0 and at most 1 expected, found 2"), "{error}");
    let error = failure(place.chat(&["model", "--compare"]).write_stdin("Hi\n"), 2);
    assert!(error.contains("model is not an adapter"), "{error}");
}

#[test]
fn an_adapter_is_compared_with_its_base() {
    let place = Place::new();
    tests::tiny_model::write_adapter(&place.path("model"), &place.path("adapter"), 1);
    let answer = |arguments: &[&str]| {
        let arguments = [arguments, &["--max-new-tokens", "9", "-o", "said.json", "--force"]].concat();
        let answer = stdout(place.chat(&arguments).write_stdin("Hello\n"));
        let said: Value = serde_json::from_str(&place.read("said.json")).unwrap();
        (answer, said[0]["messages"][1]["content"].as_str().unwrap().to_owned())
    };
    let (of_base, _) = answer(&["model"]);
    let (of_adapter, said) = answer(&["adapter"]);
    assert_ne!(of_adapter, of_base);
    let (both, said_first) = answer(&["adapter", "--compare"]);
    assert_eq!(both, format!("[with the adapter]\n{of_adapter}[without]\n{of_base}"));
    assert_eq!(said_first, said, "the adapter's answer goes on record");
}

#[test]
fn other_quantizations_are_refused_with_the_original() {
    let place = Place::new();
    let mut config: Value = serde_json::from_str(&place.read("model/config.json")).unwrap();
    config["quantization_config"] = json!({"quant_method": "gptq"});
    config["_name_or_path"] = json!("a/model");
    place.write("model/config.json", &config.to_string());
    let error = failure(place.chat(&["model"]).write_stdin("Hi\n"), 1);
    assert!(
        error.contains("quantized with gptq, which is not read") && error.contains("fetch a/model"),
        "{error}"
    );
}

#[test]
fn an_output_is_refused_before_anything_is_answered() {
    let place = Place::new();
    let config = place.read("model/config.json");
    let error = failure(place.chat(&["model", "-o", "none/there"]).write_stdin("Hi\n"), 1);
    assert!(error.contains("there is no directory none"), "{error}");
    std::os::unix::fs::symlink("model", place.path("link")).unwrap();
    for force in [&[][..], &["--force"]] {
        for output in ["model/config.json", "link/new.json"] {
            let arguments = [&["model", "-o", output][..], force].concat();
            let error = failure(place.chat(&arguments).write_stdin("Hi\n"), 2);
            assert!(error.contains("lies in"), "{error}");
        }
    }
    place.write("bashrc", "mine");
    std::os::unix::fs::symlink("bashrc", place.path("r.json")).unwrap();
    let error = failure(place.chat(&["model", "-o", "r.json", "--force"]).write_stdin("Hi\n"), 1);
    assert!(error.contains("r.json exists and is not a regular file"), "{error}");
    assert_eq!((place.read("model/config.json"), place.read("bashrc")), (config, "mine".to_owned()));
    assert!(!place.path("model/new.json").exists());
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
        let arguments = ["model", "--max-new-tokens", "150", "--temperature", "5", "--seed", "1"];
        let output =
            place.chat(&arguments).write_stdin("what is it?\n").assert().success().get_output().clone();
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
    tests::tiny_model::write_adapter(&place.path("model"), &place.path("adapter"), 1);
    // As older versions and other tools leave an adapter: with a tokenizer, without settings.
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs_err::copy(place.path("model").join(name), place.path("adapter").join(name)).unwrap();
    }
    let settings = |model: &str| {
        let mut command = place.chat(&[model, "-v", "--seed", "1"]);
        let output = command.write_stdin("a\n").assert().success().get_output().clone();
        let said = String::from_utf8(output.stderr).unwrap();
        said.lines().find(|line| line.contains("GenerationSettings {")).unwrap().to_owned()
    };
    let of_base = settings("model");
    assert!(of_base.contains("temperature: 0.7, top_p: 0.8, top_k: 20"), "{of_base}");
    assert!(of_base.contains("stops: [10, ") && of_base.contains(", 259]"), "{of_base}");
    assert_eq!(settings("adapter"), of_base);
    // An adapter's own file comes first.
    place.write("adapter/generation_config.json", r#"{"max_new_tokens": 1, "eos_token_id": 258}"#);
    let own = settings("adapter");
    assert!(own.contains("temperature: 0.0") && own.contains("stops: [257, 258]"), "{own}");
}

/// The file of a tiny model as llama.cpp's converter made it, and the model's directory.
#[test]
fn a_gguf_file_answers_as_its_model_does() {
    let place = Place::new();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    for from in ["models/llama", "gguf/tokenizers/bpe"] {
        for entry in fs_err::read_dir(golden.join(from)).unwrap() {
            let path = entry.unwrap().path();
            fs_err::create_dir_all(place.path("llama")).unwrap();
            if path.is_file() {
                fs_err::copy(&path, place.path("llama").join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let file = fs_err::read(golden.join("gguf/llama.gguf")).unwrap();
    fs_err::write(place.path("llama.gguf"), &file).unwrap();
    let answer = |model: &str| {
        let mut chat = place.chat(&[model, "--max-new-tokens", "12", "--temperature", "0"]);
        stdout(chat.write_stdin("the quick brown fox\n"))
    };
    assert_eq!(answer("llama.gguf"), answer("llama"));
    assert!(answer("llama.gguf").len() > 3);

    for length in [3, 20, 1000, 5000, file.len() - 4] {
        fs_err::write(place.path("cut.gguf"), &file[..length]).unwrap();
        let error = failure(place.chat(&["cut.gguf"]).write_stdin("x\n"), 1);
        assert!(error.contains("cut.gguf") && error.contains("\nhint: "), "{length}: {error}");
    }
    let at = file.windows(5).position(|bytes| bytes == b"llama").unwrap();
    let mut mamba = file.clone();
    mamba[at..at + 5].copy_from_slice(b"mamba");
    fs_err::write(place.path("mamba.gguf"), &mamba).unwrap();
    let error = failure(place.chat(&["mamba.gguf"]).write_stdin("x\n"), 1);
    assert!(
        error.contains("\"mamba\" are not read") && error.contains("\nhint: those of gemma2, gemma3, glm4"),
        "{error}"
    );
}
