//! Greedy answers of a real model against transformers; the goldens are written by
//! scripts/golden/smollm2.py and greedy.py.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::ops::Range;
use std::path::{Path, PathBuf};

use common::device::Device;
use common::generate::{ChatFormat, Event, GenerationSettings, ModelEngine, Overrides, Session};
use common::model::Model;
use common::text::{ChatTemplate, Conversation, Message, TextFiles, Tokenizer};
use serde_json::Value;
use tests::needs;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join("tests/golden").join(name)).unwrap()).unwrap()
}

/// A conversation, the tokens of its prompt where the golden has them, and those of its answer.
type Case = (Vec<Message>, Option<Vec<u32>>, Vec<u32>);

/// Answers each conversation with at most `most` tokens, and compares.
fn greedy_answers(directory: &Path, most: usize, cases: impl Iterator<Item = Case>) {
    let tokenizer = Tokenizer::load(directory).unwrap();
    let template = ChatTemplate::load(directory, &tokenizer).unwrap();
    let format = ChatFormat::new(tokenizer, template);
    let model = Model::load(directory, &Device::Cpu).unwrap();
    let overrides = Overrides { max_new_tokens: Some(most), temperature: Some(0.0), ..Overrides::default() };
    let settings =
        GenerationSettings::load(&TextFiles::of(directory, None), &overrides, format.stop_tokens()).unwrap();
    let mut session = Session::new(&format, ModelEngine::new(&model, false), 0);
    for (messages, prompt, mut expected) in cases {
        let mut conversation = Conversation { messages, tools: Vec::new() };
        let found = session.prompt(&mut conversation, &settings).unwrap().tokens;
        assert_eq!(prompt.unwrap_or_else(|| found.clone()), found);
        session.begin(found, &settings).unwrap();
        let mut tokens = Vec::new();
        loop {
            match session.next_event().unwrap() {
                Event::Prompt => {}
                Event::Token { id, .. } => tokens.push(id),
                Event::Stop(_) => break,
            }
        }
        expected.retain(|token| !settings.stops.contains(token));
        assert_eq!(tokens, expected, "{:?}", conversation.messages);
    }
}

fn tokens(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn greedy_answers_as_transformers() {
    let Some(directory) = needs::model() else { return };
    let golden = golden("smollm2.json");
    let cases = golden["prompts"].as_array().unwrap().iter().map(|case| {
        let user = Message::new("user", case["user"].as_str().unwrap());
        (vec![user], None, tokens(&case["dense"]["greedy"]))
    });
    greedy_answers(&directory, 40, cases);
}

/// Answers of 256 tokens to some of the eight conversations.
fn long_answers_as_transformers(conversations: Range<usize>) {
    let Some(directory) = needs::model() else { return };
    let golden = golden("greedy.json");
    let cases = golden.as_array().unwrap()[conversations].iter().map(|case| {
        let answer = tokens(&case["greedy"]);
        assert_eq!(answer.len(), 256);
        (serde_json::from_value(case["messages"].clone()).unwrap(), Some(tokens(&case["prompt"])), answer)
    });
    greedy_answers(&directory, 256, cases);
}

#[test]
fn long_greedy_answers_as_transformers() {
    long_answers_as_transformers(6..8);
}

#[test]
#[ignore = "takes a minute or two"]
fn all_long_greedy_answers_as_transformers() {
    long_answers_as_transformers(0..8);
}
