//! How a conversation becomes the prompt of a model, and what ends the answer to it.

use crate::text::labels::encode_prompt;
use crate::text::{ChatTemplate, Conversation, Ending, Tokenizer, ending};
use crate::{Result, error};

/// The tokenizer and the chat template of a model, and what the template ends an answer with.
pub struct ChatFormat {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    stop_tokens: Vec<u32>,
    stop_text: Option<String>,
}

/// The tokens of a prompt, and how many of the oldest messages had to go so that it fits.
#[derive(Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Number of messages that were dropped from the conversation.
    pub dropped: usize,
}

impl ChatFormat {
    /// Finds out what the template ends an answer with: a token, or a text that is none.
    pub fn new(tokenizer: Tokenizer, template: ChatTemplate) -> Self {
        let (end, stop_text) = match Ending::of(&tokenizer, &template) {
            Some(Ending::Token(token)) => (Some(token), None),
            Some(Ending::Text(text)) => (None, Some(text)),
            None => (ending::next_turn(&tokenizer, &template), None),
        };
        let stop_tokens = tokenizer.eos_token_id().into_iter().chain(end).collect();
        Self { tokenizer, template, stop_tokens, stop_text }
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Returns the tokens that end an answer: the tokenizer's end of text and the template's own, or that of
    /// the next turn where the template has none.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    /// Returns the text that ends an answer, where the template ends it with a text that is no token.
    pub fn stop_text(&self) -> Option<&str> {
        self.stop_text.as_deref()
    }

    /// Encodes the prompt for the next answer in at most `most` tokens. Until it fits, the oldest turns
    /// are dropped from the conversation; its system message and its last message stay.
    pub fn prompt(&self, conversation: &mut Conversation, most: usize) -> Result<Prompt> {
        let mut dropped = 0;
        loop {
            let tokens = encode_prompt(&self.tokenizer, &self.template, conversation)?;
            if tokens.len() <= most {
                return Ok(Prompt { tokens, dropped });
            }
            let messages = &mut conversation.messages;
            let oldest = usize::from(messages.first().is_some_and(|message| message.role == "system"));
            // A turn is a message and the answers to it.
            let next = (oldest + 1..messages.len()).find(|&index| messages[index].role == "user");
            let Some(next) = next else {
                return Err(error!("the message has {} tokens, and {most} fit the model", tokens.len())
                    .hint("send a shorter message"));
            };
            messages.drain(oldest..next);
            dropped += next - oldest;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::text::Message;

    /// A tokenizer with a token for each printable character, and a template that writes the contents of
    /// messages and `end` after each answer.
    pub(crate) fn format(end: &str) -> ChatFormat {
        let vocabulary: serde_json::Map<String, serde_json::Value> =
            (32u8..127).map(|byte| (char::from(byte).to_string(), (byte - 32).into())).collect();
        let split = serde_json::json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false});
        let model = serde_json::json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": " "});
        let json = serde_json::json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": split, "model": model,
            "normalizer": null, "post_processor": null, "decoder": {"type": "Fuse"}});
        let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes(), serde_json::Map::new()).unwrap();
        let source =
            "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}END{% endif %}{% endfor %}";
        let template = ChatTemplate::from_source(source.replace("END", end), serde_json::Map::new()).unwrap();
        ChatFormat::new(tokenizer, template)
    }

    #[test]
    fn the_oldest_turns_are_dropped_until_it_fits() {
        let format = format("");
        let turns = [
            ("system", "system"),
            ("user", "aaaa"),
            ("assistant", "bbbb"),
            ("user", "cc"),
            ("assistant", "dd"),
            ("user", "ee"),
        ];
        let messages = turns.map(|(role, text)| Message::new(role, text)).to_vec();
        let mut conversation = Conversation { messages, tools: Vec::new() };
        let texts = |conversation: &Conversation| -> Vec<String> {
            conversation.messages.iter().filter_map(|message| message.content.clone()).collect()
        };
        let whole = format.prompt(&mut conversation, 100).unwrap();
        assert_eq!(whole.dropped, 0);
        let less = format.prompt(&mut conversation, whole.tokens.len() - 1).unwrap();
        assert_eq!(less.dropped, 2);
        assert_eq!(texts(&conversation), ["system", "cc", "dd", "ee"]);
        let error = format.prompt(&mut conversation, 1).unwrap_err();
        assert!(error.to_string().contains("and 1 fit the model"), "{error}");
        assert_eq!(texts(&conversation), ["system", "ee"]);
    }

    #[test]
    fn what_the_template_ends_an_answer_with_is_found() {
        assert_eq!(format("").stop_text(), None);
        assert_eq!(format("<eot>").stop_text(), Some("<eot>"));
        assert!(format("<eot>").stop_tokens().is_empty());
    }
}
