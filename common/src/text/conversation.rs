//! Messages as users write them and chat templates read them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The role of the speaker: `system`, `user`, `assistant` or `tool`, or another that the template knows.
    pub role: String,
    /// The text of the turn. `None` where an assistant only calls tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Other fields that a template may read: `tool_calls`, `name`, `reasoning_content`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
    /// Whether an assistant's turn is excluded from the loss. Templates do not see this.
    #[serde(skip)]
    pub masked: bool,
}

impl Message {
    /// A message without other fields.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), extra: Map::new(), masked: false }
    }

    /// Whether the speaker is the assistant.
    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }
}

/// The tags around a thought, as Qwen3 and most reasoning models write them.
pub(super) const THOUGHT: (&str, &str) = ("<think>", "</think>");

/// Messages in order, and the tools that the assistant may call in them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// JSON schemas of tools, as the template expects them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
}

impl Conversation {
    /// The conversation without the thoughts of the assistant.
    pub fn without_thoughts(&self) -> Self {
        let mut conversation = self.clone();
        for message in conversation.messages.iter_mut().filter(|message| message.is_assistant()) {
            message.extra.shift_remove("reasoning_content");
            let Some(content) = &mut message.content else { continue };
            while let Some((before, after)) = content.split_once(THOUGHT.0)
                && let Some((_, after)) = after.split_once(THOUGHT.1)
            {
                *content = before.to_owned() + after.trim_start_matches('\n');
            }
        }
        conversation
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_thoughts_are_dropped() {
        let messages = json!([
            {"role": "user", "content": "<think>kept</think>"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes.", "reasoning_content": "hm"},
            {"role": "assistant", "content": "a <think>b</think>c<think>d", "tool_calls": []},
        ]);
        let conversation =
            Conversation { messages: serde_json::from_value(messages).unwrap(), tools: Vec::new() };
        let thoughtless = conversation.without_thoughts();
        let contents: Vec<&str> =
            thoughtless.messages.iter().filter_map(|message| message.content.as_deref()).collect();
        assert_eq!(contents, ["<think>kept</think>", "Yes.", "a c<think>d"]);
        let has = |index: usize, key: &str| thoughtless.messages[index].extra.contains_key(key);
        assert!(!has(1, "reasoning_content") && has(2, "tool_calls"));
    }
}
