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

/// Messages in order, and the tools that the assistant may call in them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// JSON schemas of tools, as the template expects them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
}
