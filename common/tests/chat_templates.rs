//! Chat-template text, token ids and label masks against transformers, for two real tokenizers.
//! The goldens are written by scripts/golden/templates.py.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test file as a whole

use std::path::{Path, PathBuf};

use common::text::labels::{encode_conversation, encode_prompt};
use common::text::{ChatTemplate, Conversation, LabelOptions, Message, Tokenizer};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn directory(variable: &str, otherwise: PathBuf, inside: &str) -> Option<PathBuf> {
    let directory = std::env::var_os(variable).map_or(otherwise, PathBuf::from).join(inside);
    if directory.join("tokenizer.json").exists() {
        return Some(directory);
    }
    eprintln!("skipped: no tokenizer in {} ({variable} names another place)", directory.display());
    None
}

/// Special tokens that stand in the data: transformers lets them end a turn, we do not.
fn holds_special_tokens(messages: &[Message]) -> bool {
    messages.iter().filter_map(|message| message.content.as_deref()).any(|text| text.contains("<|im_"))
}

/// `expected_own_ids`: the cases in which special tokens stand in the data, and those in which a
/// token would reach across the beginning of an answer.
fn check(name: &str, directory: &Path, expected_own_ids: &[&str]) {
    let tokenizer = Tokenizer::load(directory).unwrap();
    let template = ChatTemplate::load(directory, &tokenizer).unwrap();
    let path = root().join(format!("tests/golden/templates/{name}.json"));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let mut own_ids = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let label = format!("{name}, {}", case["name"]);
        let conversation = Conversation {
            messages: serde_json::from_value(case["messages"].clone()).unwrap(),
            tools: serde_json::from_value(case["tools"].clone()).unwrap_or_default(),
        };
        let text = template.render(&conversation.messages, &conversation.tools, false).unwrap();
        assert_eq!(text, case["text"].as_str().unwrap(), "{label}");
        let prompt = template.render(&conversation.messages, &conversation.tools, true).unwrap();
        assert_eq!(prompt, case["prompt_text"].as_str().unwrap(), "{label}");

        let options = LabelOptions::answers(usize::MAX);
        let example = encode_conversation(&tokenizer, &template, &conversation, &options).unwrap().example;
        let prompt = encode_prompt(&tokenizer, &template, &conversation).unwrap();
        let mask: Vec<bool> = case["mask"].as_array().unwrap().iter().map(|bit| bit == 1).collect();
        // What follows the last answer is not part of the example.
        let (kept, dropped) = mask.split_at(example.tokens.len().min(mask.len()));
        if ids(&case["ids"]).starts_with(&example.tokens) && !dropped.contains(&true) {
            assert_eq!(example.trained, kept, "{label}");
        } else {
            own_ids.push(case["name"].as_str().unwrap().to_owned());
            assert_eq!(tokenizer.decode_with_special(&example.tokens).unwrap(), text, "{label}");
        }
        if !holds_special_tokens(&conversation.messages) {
            assert_eq!(prompt, ids(&case["prompt_ids"]), "{label}");
        }
    }
    assert_eq!(own_ids, expected_own_ids, "{name}: cases with ids other than transformers'");
}

#[test]
fn smollm2_as_transformers() {
    let fallback = root().join("demo/model/SmolLM2-135M-Instruct");
    if let Some(directory) = directory("QLORA_TEST_MODEL", fallback, "") {
        check("smollm2", &directory, &["numbers_and_spaces", "literal_end", "literal_whole_turn"]);
    }
}

#[test]
fn qwen2_5_as_transformers() {
    let fallback = root().join("../shared");
    if let Some(directory) = directory("QLORA_TEST_SHARED", fallback, "data/qwen2.5-tokenizer") {
        check("qwen2.5", &directory, &["literal_end", "literal_whole_turn"]);
    }
}

/// LLaMA-Factory's `qwen` is Qwen2.5's own template, tools included.
#[test]
fn the_template_called_qwen_is_qwens() {
    let fallback = root().join("../shared");
    let Some(directory) = directory("QLORA_TEST_SHARED", fallback, "data/qwen2.5-tokenizer") else { return };
    let tokenizer = Tokenizer::load(&directory).unwrap();
    let template = ChatTemplate::named("qwen", &tokenizer).unwrap();
    let path = root().join("tests/golden/templates/qwen2.5.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        // LLaMA-Factory puts its own system message in the place of an empty one.
        if case["name"] == "empty_system" {
            continue;
        }
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let tools: Vec<Value> = serde_json::from_value(case["tools"].clone()).unwrap_or_default();
        assert_eq!(template.render(&messages, &tools, false).unwrap(), case["text"].as_str().unwrap());
    }
}
