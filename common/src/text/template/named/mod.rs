//! The templates that LLaMA-Factory has by name (`data/template.py`, 0.9.5), for models without one and
//! for training with another. Each renders the same text as LLaMA-Factory.

use super::ChatTemplate;
use crate::text::Tokenizer;
use crate::{Error, Result};

/// The Jinja text of a file after settings that it reads.
macro_rules! with {
    ($settings:literal, $file:literal) => {
        concat!("{%- set ", $settings, " -%}\n", include_str!($file))
    };
}

/// The name and Jinja text of each template.
const TEMPLATES: [(&str, &str); 11] = [
    ("alpaca", include_str!("alpaca.jinja")),
    ("chatml", with!("default_system = ''", "chatml.jinja")),
    ("default", include_str!("default.jinja")),
    ("llama2", include_str!("llama2.jinja")),
    ("llama3", include_str!("llama3.jinja")),
    ("mistral", include_str!("mistral.jinja")),
    (
        "qwen",
        with!(
            "default_system, empty_thought = \
             'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.', ''",
            "qwen.jinja"
        ),
    ),
    // An answer without a thought is trained to begin with an empty one.
    ("qwen3", with!("default_system, empty_thought = '', '<think>\\n\\n</think>\\n\\n'", "qwen.jinja")),
    ("qwen3_nothink", with!("default_system, empty_thought = '', ''", "qwen.jinja")),
    ("smollm", with!("default_system = ''", "chatml.jinja")),
    (
        "smollm2",
        with!(
            "default_system = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face.'",
            "chatml.jinja"
        ),
    ),
];

/// The names of all templates.
pub(super) fn names() -> Vec<&'static str> {
    TEMPLATES.iter().map(|(name, _)| *name).collect()
}

impl ChatTemplate {
    /// The template that LLaMA-Factory calls `name`.
    pub fn named(name: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let Some((_, source)) = TEMPLATES.iter().find(|(known, _)| *known == name) else {
            return Err(Error::usage(format!("no template is called {name:?}")).hint(format_args!(
                "the names are {}; without a name, the template of the model is used",
                names().join(", ")
            )));
        };
        Self::from_source(*source, tokenizer.special_tokens().clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::text::labels::encode_conversation;
    use crate::text::tokenizer::tests::byte_tokenizer_json;
    use crate::text::{Conversation, LabelOptions};

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
            let Conversation { messages, tools } = &conversation;
            let template = ChatTemplate::named(name, &tokenizer).unwrap();
            assert_eq!(template.render(messages, tools, false).unwrap(), pairs.concat().concat(), "{label}");
            let (last, before) = pairs.split_last().unwrap();
            let prompt = template.render(&messages[..messages.len() - 1], tools, true).unwrap();
            assert_eq!(prompt, before.concat().concat() + &last[0], "{label}: the prompt");

            let options = LabelOptions::answers(usize::MAX);
            let example =
                encode_conversation(&tokenizer, &template, &conversation, &options).unwrap().example;
            let trained = example.tokens.iter().zip(&example.trained).filter(|(_, trained)| **trained);
            let trained: Vec<u32> = trained.map(|(token, _)| *token).collect();
            let answers: String = pairs.iter().map(|[_, answer]| answer.as_str()).collect();
            assert_eq!(tokenizer.decode_with_special(&trained).unwrap(), answers, "{label}");
        }
        for (name, _) in TEMPLATES {
            assert!(golden.iter().any(|case| case["template"] == name), "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let tokenizer = crate::text::tokenizer::tests::byte_tokenizer();
        let error = ChatTemplate::named("qwn", &tokenizer).err().unwrap();
        assert!(error.hint_text().unwrap().contains("mistral, qwen, qwen3"), "{error}");
    }
}
