//! The templates that LLaMA-Factory has by name (`data/template.py`, 0.9.5), for models without one and
//! for training with another. Each renders the same text as LLaMA-Factory.
//!
//! | file | what it is |
//! |---|---|
//! | `registered` | the templates that differ only in the texts around the turns |
//! | `turns`, `turns.jinja` | what such a template is made of, and its Jinja text |
//! | `tools/` | how tools and calls of them are written |
//! | `thoughts.jinja` | how the thoughts of reasoning models are written |
//! | other `.jinja` files | templates by themselves |

mod registered;
mod turns;

use super::ChatTemplate;
use crate::text::Tokenizer;
use crate::{Error, Result};

/// The Jinja text of files after settings that they read.
macro_rules! with {
    ($settings:literal, $($file:literal),+) => {
        concat!("{%- set ", $settings, " -%}\n", $(include_str!($file)),+)
    };
}

/// The name and Jinja text of each template with a file of its own.
const FILES: [(&str, &str); 9] = [
    ("alpaca", include_str!("alpaca.jinja")),
    ("chatml", with!("default_system = ''", "chatml.jinja")),
    ("default", include_str!("default.jinja")),
    ("llama2", include_str!("llama2.jinja")),
    (
        "qwen",
        with!(
            "default_system, thought = \
             'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.', none",
            "qwen.jinja"
        ),
    ),
    (
        "qwen3",
        with!(
            "default_system, thought = '', ['<think>\\n', '\\n</think>\\n\\n']",
            "thoughts.jinja",
            "qwen.jinja"
        ),
    ),
    ("qwen3_nothink", with!("default_system, thought = '', none", "qwen.jinja")),
    ("smollm", with!("default_system = ''", "chatml.jinja")),
    (
        "smollm2",
        with!(
            "default_system = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face.'",
            "chatml.jinja"
        ),
    ),
];

/// The number of names that are proposed in place of an unknown one.
const PROPOSALS: usize = 3;

/// The names of all templates, in alphabetical order.
pub(super) fn names() -> Vec<&'static str> {
    let files = FILES.iter().map(|(name, _)| *name);
    let mut names: Vec<&str> = files.chain(registered::TEMPLATES.iter().map(|(name, _)| *name)).collect();
    names.sort_unstable();
    names
}

/// The known names that are most like `name`, the nearest first.
fn nearest(name: &str) -> Vec<&'static str> {
    let mut names = names();
    let likeness = |known: &&str| strsim::jaro_winkler(name, known);
    names.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    names.truncate(PROPOSALS);
    names
}

impl ChatTemplate {
    /// The template that LLaMA-Factory calls `name`.
    pub fn named(name: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let file = FILES.iter().find(|(known, _)| *known == name).map(|(_, source)| (*source).to_owned());
        let turns = || registered::TEMPLATES.iter().find(|(known, _)| *known == name);
        let Some(source) = file.or_else(|| turns().map(|(_, turns)| turns.source())) else {
            return Err(Error::usage(format!("no template is called {name:?}")).hint(format_args!(
                "the names are {}; the nearest are {}; without a name, the template of the model is used",
                names().join(", "),
                nearest(name).join(", ")
            )));
        };
        Self::from_source(source, tokenizer.special_tokens().clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::text::labels::encode_conversation;
    use crate::text::tokenizer::tests::byte_tokenizer_json;
    use crate::text::{Conversation, LabelOptions};

    /// The text without the date of today, which llama3 writes before tools.
    fn undated(text: &str) -> String {
        match text.split_once("Today Date: ") {
            Some((before, after)) => format!("{before}{}", &after["26 Nov 2026".len()..]),
            None => text.to_owned(),
        }
    }

    /// `scripts/golden/named_templates.py` runs LLaMA-Factory's.
    #[test]
    fn texts_and_what_is_trained_of_them_are_llama_factorys() {
        let special_tokens = json!({"bos_token": "<s>", "eos_token": "</s>"});
        let special_tokens = special_tokens.as_object().unwrap().clone();
        let tokenizer = Tokenizer::from_bytes(byte_tokenizer_json().as_bytes(), special_tokens).unwrap();
        let text = include_str!("../../../../../tests/golden/named_templates.json");
        let golden: Vec<Value> = serde_json::from_str(text).unwrap();
        for case in &golden {
            let name = case["template"].as_str().unwrap();
            let label = format!("{name}, {}", case["name"]);
            let pairs: Vec<[String; 2]> = serde_json::from_value(case["pairs"].clone()).unwrap();
            let conversation = Conversation {
                messages: serde_json::from_value(case["messages"].clone()).unwrap(),
                tools: serde_json::from_value(case["tools"].clone()).unwrap_or_default(),
            };
            let template = ChatTemplate::named(name, &tokenizer).unwrap();
            let template = template.with_thinking(case["enable_thinking"].as_bool());
            let drops_earlier = case["preserve_thinking"] == false;
            let template = if drops_earlier { template.without_earlier_thoughts() } else { template };
            let thoughtless = conversation.without_thoughts();
            let written = if template.drops_thoughts() { &thoughtless } else { &conversation };
            let rendered = template.render(&written.messages, &written.tools, false).unwrap();
            assert_eq!(undated(&rendered), undated(&pairs.concat().concat()), "{label}");
            let before = &written.messages[..written.messages.len() - 1];
            let prompt = template.render(before, &written.tools, true).unwrap();
            let (last, pairs_before) = pairs.split_last().unwrap();
            let expected = pairs_before.concat().concat() + &last[0];
            assert_eq!(undated(&prompt), undated(&expected), "{label}: the prompt");

            let options = LabelOptions { mask_history: drops_earlier, ..LabelOptions::answers(usize::MAX) };
            let example =
                encode_conversation(&tokenizer, &template, &conversation, &options).unwrap().example;
            let trained = example.tokens.iter().zip(&example.trained).filter(|(_, trained)| **trained);
            let trained: Vec<u32> = trained.map(|(token, _)| *token).collect();
            let answers = pairs.iter().map(|[_, answer]| answer.as_str());
            let answers: String = answers.skip(if drops_earlier { pairs.len() - 1 } else { 0 }).collect();
            assert_eq!(tokenizer.decode_with_special(&trained).unwrap(), answers, "{label}");
        }
        for name in names() {
            assert!(golden.iter().any(|case| case["template"] == name), "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let tokenizer = crate::text::tokenizer::tests::byte_tokenizer();
        for (unknown, nearest) in [
            ("qwn", "nearest are qwen, qwen3, "),
            ("gemma-3", "nearest are gemma3, "),
            ("phi4-mini", "nearest are phi4_mini, phi4, "),
            ("Granite3", "nearest are granite3, "),
            ("", "nearest are alpaca, "),
        ] {
            let error = ChatTemplate::named(unknown, &tokenizer).err().unwrap();
            let hint = error.hint_text().unwrap().to_owned();
            assert!(hint.contains(nearest), "{unknown}: {hint}");
            assert!(hint.contains("qwen, qwen3, qwen3_nothink, "), "{unknown}: {hint}");
        }
    }
}
