//! Chat-template text, token ids and label masks against transformers, for two real tokenizers and the
//! public templates of the families that we load. The goldens are written by scripts/golden/templates.py and public_templates.py.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::{Path, PathBuf};

use common::hex;
use common::text::labels::{encode_conversation, encode_prompt};
use common::text::{ChatTemplate, Conversation, Ending, LabelOptions, Message, Tokenizer, ending};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tests::needs;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden(name: &str) -> Value {
    let path = root().join(format!("tests/golden/templates/{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// How often the data has the text of a special token: transformers lets it end a turn, we do not.
fn special_tokens_in(messages: &[Message], special: &[String]) -> usize {
    let contents = || messages.iter().filter_map(|message| message.content.as_deref());
    special
        .iter()
        .map(|token| contents().map(|text| text.matches(token.as_str()).count()).sum::<usize>())
        .sum()
}

/// `expected_own_ids`: the cases in which special tokens stand in the data, and those in which a
/// token would reach across the beginning of an answer.
fn check(name: &str, directory: &Path, special: &[String], expected_own_ids: &[&str]) {
    let tokenizer = Tokenizer::load(directory).unwrap();
    let template = ChatTemplate::load(directory, &tokenizer).unwrap();
    let template = template.with_thinking(golden(name)["enable_thinking"].as_bool());
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let count = |ids: &[u32]| ids.iter().filter(|&&id| tokenizer.is_special(id)).count();
    let trained = |ids: &[u32], mask: &[bool]| {
        let trained: Vec<u32> = ids.iter().zip(mask).filter(|(_, mask)| **mask).map(|(id, _)| *id).collect();
        tokenizer.decode_with_special(&trained).unwrap()
    };
    // Special tokens of Phi-3's tokenizer swallow the white space after them, and Llama's adds a space.
    let readable = |text: &str| match name {
        "phi-3" | "mixtral" => text.split_whitespace().collect(),
        _ => text.to_owned(),
    };
    let mut own_ids = Vec::new();
    for case in golden(name)["cases"].as_array().unwrap() {
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
        let expected = ids(&case["ids"]);
        if expected.starts_with(&example.tokens) && !dropped.contains(&true) {
            assert_eq!(example.trained, kept, "{label}");
        } else {
            own_ids.push(case["name"].as_str().unwrap().to_owned());
            let decoded = tokenizer.decode_with_special(&example.tokens).unwrap();
            assert_eq!(readable(&decoded), readable(&text), "{label}");
        }
        match special_tokens_in(&conversation.messages, special) {
            0 => assert_eq!(prompt, ids(&case["prompt_ids"]), "{label}"),
            forged => {
                assert_eq!(count(&example.tokens), count(&expected) - forged, "{label}: a turn is forged");
                let found = trained(&example.tokens, &example.trained);
                assert_eq!(readable(&found), readable(&trained(&expected, &mask)), "{label}");
            }
        }
    }
    assert_eq!(own_ids, expected_own_ids, "{name}: cases with ids other than transformers'");
}

fn chatml() -> [String; 2] {
    ["<|im_start|>", "<|im_end|>"].map(String::from)
}

#[test]
fn smollm2_as_transformers() {
    if let Some(directory) = needs::model() {
        check("smollm2", &directory, &chatml(), &["numbers_and_spaces", "literal_end", "literal_whole_turn"]);
    }
}

#[test]
fn qwen2_5_as_transformers() {
    if let Some(directory) = needs::shared("data/qwen2.5-tokenizer") {
        check("qwen2.5", &directory, &chatml(), &["literal_end", "literal_whole_turn"]);
    }
}

/// Templates of models that are not at hand, with their own special tokens added to SmolLM2's tokenizer or to
/// one of those in tests/golden/tokenizers. The templates are those that scripts/golden/public_templates.py
/// downloads, and none other.
fn check_public(name: &str, end: &str, expected_own_ids: &[&str]) {
    let Some(path) = needs::template(name) else { return };
    let golden = golden(name);
    let base = match golden["tokenizer"].as_str() {
        Some(tokenizer) => root().join("tests/golden/tokenizers").join(tokenizer),
        None => match needs::model() {
            Some(model) => model,
            None => return,
        },
    };
    let template = std::fs::read_to_string(&path).unwrap();
    assert_eq!(hex(Sha256::digest(&template)), golden["sha256"].as_str().unwrap(), "{}", path.display());
    let special: Vec<String> = serde_json::from_value(golden["special_tokens"].clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"bos_token": golden["bos_token"], "eos_token": golden["eos_token"],
        "chat_template": template});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = std::fs::read_to_string(base.join("tokenizer.json")).unwrap();
    let tokenizer = with_tokens(serde_json::from_str(&tokenizer).unwrap(), &special);
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    check(name, folder.path(), &special, expected_own_ids);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let template = ChatTemplate::load(folder.path(), &tokenizer).unwrap();
    let found = match Ending::of(&tokenizer, &template) {
        Some(Ending::Token(token)) => Some(token),
        _ => ending::next_turn(&tokenizer, &template),
    };
    assert_eq!(found, tokenizer.token_id(end), "{name}");
}

/// The cases whose texts have the marks of turns in them.
const FORGED: [&str; 2] = ["literal_end", "literal_whole_turn"];

#[test]
fn public_templates_as_transformers() {
    let spaces = ["numbers_and_spaces", FORGED[0], FORGED[1]];
    let jinja = ["jinja_and_html", FORGED[0], FORGED[1]];
    for (name, end, own_ids) in [
        ("llama-3.1", "<|eot_id|>", &spaces[..]),
        ("qwen3", "<|im_end|>", &FORGED),
        ("mistral", "</s>", &jinja),
        ("phi-4", "<|im_end|>", &FORGED),
        ("gemma-2", "<end_of_turn>", &FORGED),
        ("gemma-3", "<end_of_turn>", &FORGED),
        ("phi-3", "<|end|>", &spaces),
        ("phi-4-mini", "<|end|>", &FORGED),
        ("glm-4", "<|user|>", &FORGED),
        ("glm-z1", "<|user|>", &FORGED),
        ("olmo", "<|endoftext|>", &spaces),
        ("granite-3.0", "<|end_of_text|>", &FORGED),
        ("granite-3.3", "<|end_of_text|>", &FORGED),
        ("mixtral", "</s>", &FORGED),
        ("mistral-0.3", "</s>", &FORGED),
        ("mistral-nemo", "</s>", &FORGED),
        ("mistral-small", "</s>", &FORGED),
        ("ministral-3", "</s>", &FORGED),
        ("qwen2-moe", "<|im_end|>", &spaces),
        ("qwen3-moe", "<|im_end|>", &FORGED),
        ("qwen3-moe-nothink", "<|im_end|>", &spaces),
        ("qwen3-instruct", "<|im_end|>", &spaces),
        ("qwen3-thinking", "<|im_end|>", &FORGED),
        ("qwen3-coder", "<|im_end|>", &spaces),
    ] {
        check_public(name, end, own_ids);
    }
}

/// A tokenizer.json with special tokens added behind its own.
fn with_tokens(mut tokenizer: Value, special: &[String]) -> Value {
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap().values();
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let last =
        vocabulary.chain(added.iter().map(|token| &token["id"])).filter_map(Value::as_u64).max().unwrap();
    let is_new = |token: &&String| added.iter().all(|known| known["content"] != **token);
    let new: Vec<Value> = special
        .iter()
        .filter(is_new)
        .zip(last + 1..)
        .map(|(content, id)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    tokenizer["added_tokens"].as_array_mut().unwrap().extend(new);
    tokenizer
}

/// LLaMA-Factory's `qwen` is Qwen2.5's own template, tools included.
#[test]
fn the_template_called_qwen_is_qwens() {
    let Some(directory) = needs::shared("data/qwen2.5-tokenizer") else { return };
    let tokenizer = Tokenizer::load(&directory).unwrap();
    let template = ChatTemplate::named("qwen", &tokenizer).unwrap();
    for case in golden("qwen2.5")["cases"].as_array().unwrap() {
        // LLaMA-Factory puts its own system message in the place of an empty one.
        if case["name"] == "empty_system" {
            continue;
        }
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let tools: Vec<Value> = serde_json::from_value(case["tools"].clone()).unwrap_or_default();
        assert_eq!(template.render(&messages, &tools, false).unwrap(), case["text"].as_str().unwrap());
    }
}

/// Ids and labels of LLaMA-Factory, with the tokenizers in tests/golden/tokenizers.
#[test]
fn named_templates_encode_as_llama_factory() {
    let golden = std::fs::read_to_string(root().join("tests/golden/named_ids.json")).unwrap();
    for case in serde_json::from_str::<Vec<Value>>(&golden).unwrap() {
        let label = format!("{}, {}", case["template"], case["name"]);
        let shape = case["tokenizer"].as_str().unwrap();
        let tokenizer = Tokenizer::load(&root().join("tests/golden/tokenizers").join(shape)).unwrap();
        let template = ChatTemplate::named(case["template"].as_str().unwrap(), &tokenizer).unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let conversation = Conversation { messages, tools: Vec::new() };
        let options = LabelOptions::answers(usize::MAX);
        let example = encode_conversation(&tokenizer, &template, &conversation, &options).unwrap().example;
        let ids: Vec<i64> = serde_json::from_value(case["ids"].clone()).unwrap();
        let labels: Vec<i64> = serde_json::from_value(case["labels"].clone()).unwrap();
        assert_eq!(example.tokens.iter().map(|&id| i64::from(id)).collect::<Vec<_>>(), ids, "{label}");
        // LLaMA-Factory teaches the end of text in the place of the next turn's first token too, where its
        // template ends only the last answer with it.
        let expected: Vec<bool> = ids.iter().zip(&labels).map(|(id, label)| id == label).collect();
        assert_eq!(example.trained, expected, "{label}");
    }
}
