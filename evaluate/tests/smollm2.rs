//! Scores and answers of a real model against transformers; the goldens are written by
//! scripts/golden/mmlu.py and scripts/golden/smollm2.py.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test file as a whole

use std::path::{Path, PathBuf};

use common::device::Device;
use common::model::Model;
use common::text::{ChatTemplate, Conversation, Message, Tokenizer};
use evaluate::chat::generate::{Generator, ModelEngine};
use evaluate::chat::settings::{Flags, Settings};
use evaluate::mmlu::{self, Selection, Style};
use evaluate::score::{Passes, score};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join("tests/golden").join(name)).unwrap()).unwrap()
}

fn directory() -> Option<PathBuf> {
    let fallback = root().join("demo/model/SmolLM2-135M-Instruct");
    let directory = std::env::var_os("QLORA_TEST_MODEL").map_or(fallback, PathBuf::from);
    if directory.join("model.safetensors").exists() {
        return Some(directory);
    }
    eprintln!("skipped: no model in {} (QLORA_TEST_MODEL names another place)", directory.display());
    None
}

#[test]
fn logprobs_as_transformers() {
    let Some(directory) = directory() else { return };
    let tokenizer = Tokenizer::load(&directory).unwrap();
    let model = Model::load(&directory, &Device::Cpu).unwrap();
    let answers = Style::LmEval.answer_tokens(&tokenizer).unwrap();
    let golden = golden("mmlu.json");
    let selection = Selection { shots: 5, limit: Some(5), ..Selection::default() };
    let subjects = mmlu::load(&root().join("scripts/demo/mmlu"), &selection).unwrap();
    let text = Style::LmEval.prompt(&subjects[0], 5, &subjects[0].questions[0]).text(None).unwrap();
    assert_eq!(text, golden["prompt"].as_str().unwrap());
    let mut checked = 0;
    for subject in &subjects {
        let prompts: Vec<Vec<u32>> = subject
            .questions
            .iter()
            .map(|question| Style::LmEval.prompt(subject, 5, question).encode(&tokenizer, None).unwrap())
            .collect();
        let passes = Passes { tokens: 2048, share_prefix: true };
        let logprobs = score(&model, &prompts, answers, passes, |_| Ok(())).unwrap();
        for (index, (found, prompt)) in logprobs.iter().zip(&prompts).enumerate() {
            let is_it = |case: &&Value| case["subject"] == subject.name && case["index"] == index;
            let case = golden["questions"].as_array().unwrap().iter().find(is_it).unwrap();
            assert_eq!(case["tokens"], prompt.len());
            for (found, expected) in found.iter().zip(case["logprobs"].as_array().unwrap()) {
                let difference = (f64::from(*found) - expected.as_f64().unwrap()).abs();
                assert!(difference < 2e-3, "{} {index}: {found}, transformers {expected}", subject.name);
            }
            checked += 1;
        }
    }
    assert_eq!(checked, golden["questions"].as_array().unwrap().len());
}

#[test]
fn greedy_answers_as_transformers() {
    let Some(directory) = directory() else { return };
    let tokenizer = Tokenizer::load(&directory).unwrap();
    let template = ChatTemplate::load(&directory, &tokenizer).unwrap();
    let model = Model::load(&directory, &Device::Cpu).unwrap();
    let flags = Flags { max_new_tokens: Some(40), ..Flags::default() };
    let settings = Settings::load(&directory, &flags, []).unwrap();
    let mut generator = Generator::new(ModelEngine::new(&model, false), 0);
    for case in golden("smollm2.json")["prompts"].as_array().unwrap() {
        let user = case["user"].as_str().unwrap();
        let conversation = Conversation { messages: vec![Message::new("user", user)], tools: Vec::new() };
        let prompt = common::text::labels::encode_prompt(&tokenizer, &template, &conversation).unwrap();
        let mut tokens = Vec::new();
        let push = |token| {
            tokens.push(token);
            Ok(())
        };
        generator.answer(&prompt, &settings, || false, push).unwrap();
        let mut expected: Vec<u32> = serde_json::from_value(case["dense"]["greedy"].clone()).unwrap();
        expected.retain(|token| !settings.stops.contains(token));
        assert_eq!(tokens, expected, "{user}");
    }
}
