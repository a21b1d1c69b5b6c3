//! A conversation that fits the model.

use common::text::labels::encode_prompt;
use common::text::{ChatTemplate, Conversation, Message, Tokenizer};
use common::{Result, error};

/// The turns so far.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// Messages and tools.
    pub conversation: Conversation,
}

/// A prompt that fits, and how many of the oldest messages had to go for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Messages that were dropped.
    pub dropped: usize,
}

impl Session {
    /// A conversation that begins with what the system says, if anything.
    pub fn new(system: Option<&str>) -> Self {
        let mut session = Self::default();
        session.set_system(system);
        session
    }

    /// Forgets all but what the system says.
    pub fn reset(&mut self) {
        let system = self.has_system();
        self.conversation.messages.truncate(usize::from(system));
    }

    /// Begins anew with what the system says.
    pub fn set_system(&mut self, system: Option<&str>) {
        self.conversation.messages = system.map(|text| Message::new("system", text)).into_iter().collect();
    }

    /// Adds a turn.
    pub fn say(&mut self, role: &str, content: impl Into<String>) {
        self.conversation.messages.push(Message::new(role, content));
    }

    /// Takes back the last turn.
    pub fn unsay(&mut self) {
        self.conversation.messages.pop();
    }

    fn has_system(&self) -> bool {
        self.conversation.messages.first().is_some_and(|message| message.role == "system")
    }

    /// The prompt for the next answer, in at most `most` tokens: the oldest turns are dropped until
    /// it fits, what the system says and the last message stay.
    pub fn prompt(&mut self, tokenizer: &Tokenizer, template: &ChatTemplate, most: usize) -> Result<Prompt> {
        let mut dropped = 0;
        loop {
            let tokens = encode_prompt(tokenizer, template, &self.conversation)?;
            if tokens.len() <= most {
                return Ok(Prompt { tokens, dropped });
            }
            let oldest = usize::from(self.has_system());
            // A turn is a message and the answers to it.
            let messages = &self.conversation.messages;
            let next = (oldest + 1..messages.len()).find(|&index| messages[index].role == "user");
            let Some(next) = next else {
                return Err(error!("the message has {} tokens, and {most} fit the model", tokens.len())
                    .hint("send a shorter message"));
            };
            self.conversation.messages.drain(oldest..next);
            dropped += next - oldest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(session: &Session) -> Vec<&str> {
        session.conversation.messages.iter().filter_map(|message| message.content.as_deref()).collect()
    }

    #[test]
    fn a_reset_keeps_the_system_message() {
        let mut session = Session::new(Some("s"));
        session.say("user", "q");
        session.reset();
        assert_eq!(texts(&session), ["s"]);
        session.set_system(None);
        session.say("user", "q");
        session.reset();
        assert!(texts(&session).is_empty());
    }

    /// Tests that tokenize need a tokenizer; this one has a token for each character.
    fn tokenizer() -> Tokenizer {
        let vocabulary: serde_json::Map<String, serde_json::Value> =
            (32u8..127).map(|byte| (char::from(byte).to_string(), (byte - 32).into())).collect();
        let split = serde_json::json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false});
        let model = serde_json::json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": " "});
        let json = serde_json::json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": split, "model": model,
            "normalizer": null, "post_processor": null, "decoder": null});
        Tokenizer::from_bytes(json.to_string().as_bytes(), serde_json::Map::new()).unwrap()
    }

    #[test]
    fn the_oldest_turns_are_dropped_until_it_fits() {
        let tokenizer = tokenizer();
        let source = "{% for m in messages %}{{ m.content }}{% endfor %}";
        let template = ChatTemplate::from_source(source, serde_json::Map::new()).unwrap();
        let mut session = Session::new(Some("system"));
        for (role, text) in
            [("user", "aaaa"), ("assistant", "bbbb"), ("user", "cc"), ("assistant", "dd"), ("user", "ee")]
        {
            session.say(role, text);
        }
        let whole = session.prompt(&tokenizer, &template, 100).unwrap();
        assert_eq!(whole.dropped, 0);
        let n = whole.tokens.len();
        let less = session.prompt(&tokenizer, &template, n - 1).unwrap();
        assert_eq!(less.dropped, 2);
        assert_eq!(texts(&session), ["system", "cc", "dd", "ee"]);
        let error = session.prompt(&tokenizer, &template, 1).unwrap_err();
        assert!(error.to_string().contains("and 1 fit the model"), "{error}");
        assert_eq!(texts(&session), ["system", "ee"]);
    }
}
