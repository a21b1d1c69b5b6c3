//! Templates with the names that LLaMA-Factory gives them (`data/template.py`, 0.9.3), for models
//! that bring none or are trained with another. Each gives LLaMA-Factory's text.

use super::ChatTemplate;
use crate::text::Tokenizer;
use crate::{Error, Result};

/// The names, with the Jinja text of each.
const TEMPLATES: [(&str, &str); 6] = [
    ("alpaca", include_str!("alpaca.jinja")),
    ("chatml", include_str!("chatml.jinja")),
    ("default", include_str!("default.jinja")),
    ("llama3", include_str!("llama3.jinja")),
    ("mistral", include_str!("mistral.jinja")),
    ("qwen", include_str!("qwen.jinja")),
];

impl ChatTemplate {
    /// The template that LLaMA-Factory calls `name`.
    pub fn named(name: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let Some((_, source)) = TEMPLATES.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = TEMPLATES.iter().map(|(name, _)| *name).collect();
            return Err(Error::usage(format!("no template is called {name:?}")).hint(format_args!(
                "the names are {}; without a name, the template of the model is used",
                names.join(", ")
            )));
        };
        Self::from_source(*source, tokenizer.special_tokens().clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::Message;
    use crate::text::tokenizer::tests::byte_tokenizer_json;

    const TURNS: [(&str, &str); 3] = [("user", "u"), ("assistant", "a"), ("user", "v")];

    fn render(name: &str, turns: &[(&str, &str)]) -> String {
        let special_tokens = json!({"bos_token": "<s>", "eos_token": "</s>"});
        let json = byte_tokenizer_json();
        let tokenizer =
            Tokenizer::from_bytes(json.as_bytes(), special_tokens.as_object().unwrap().clone()).unwrap();
        let messages: Vec<Message> = turns.iter().map(|(role, text)| Message::new(*role, *text)).collect();
        ChatTemplate::named(name, &tokenizer).unwrap().render(&messages, &[], true).unwrap()
    }

    fn with_system(turns: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        [&[("system", "s")], turns].concat()
    }

    // The expected texts are the slots of LLaMA-Factory's templates with these turns put in.

    #[test]
    fn chat_markup() {
        let turns = "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n\
            <|im_start|>user\nv<|im_end|>\n<|im_start|>assistant\n";
        let system = "<|im_start|>system\ns<|im_end|>\n";
        assert_eq!(render("chatml", &TURNS), turns);
        assert_eq!(render("chatml", &with_system(&TURNS)), format!("{system}{turns}"));
        let default = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n";
        assert_eq!(render("qwen", &TURNS), format!("{default}{turns}"));
        assert_eq!(render("qwen", &with_system(&TURNS)), format!("{system}{turns}"));
    }

    #[test]
    fn llama3_and_mistral() {
        let header = |role| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
        let (system, user, assistant) = (header("system"), header("user"), header("assistant"));
        assert_eq!(
            render("llama3", &with_system(&TURNS)),
            format!(
                "<s>{system}s<|eot_id|>{user}u<|eot_id|>{assistant}a<|eot_id|>{user}v<|eot_id|>{assistant}"
            )
        );
        assert_eq!(render("mistral", &TURNS), "<s>[INST] u[/INST] a</s>[INST] v[/INST]");
        assert_eq!(render("mistral", &with_system(&TURNS)), "<s>[INST] s\n\nu[/INST] a</s>[INST] v[/INST]");
    }

    #[test]
    fn plain_texts() {
        let turns = "### Instruction:\nu\n\n### Response:\na</s>\n\n### Instruction:\nv\n\n### Response:\n";
        assert_eq!(render("alpaca", &with_system(&TURNS)), format!("s{turns}"));
        assert!(render("alpaca", &TURNS).ends_with(&format!(" the request.\n\n{turns}")));
        assert_eq!(
            render("default", &with_system(&TURNS)),
            "System: s</s>\nHuman: u</s>\nAssistant:a</s>\nHuman: v</s>\nAssistant:"
        );
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let tokenizer = crate::text::tokenizer::tests::byte_tokenizer();
        let error = ChatTemplate::named("qwn", &tokenizer).err().unwrap();
        assert!(error.hint_text().unwrap().contains("mistral, qwen"), "{error}");
    }
}
