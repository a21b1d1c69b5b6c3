//! The conversation: how it begins, and how a line of JSON says it.

use common::text::{Conversation, Message};
use common::{Context, Result, error};
use serde_json::Value;

/// Begins a conversation, with a system message if there is one.
pub(crate) fn begin(system: Option<&str>) -> Conversation {
    let messages = system.map(|text| Message::new("system", text)).into_iter().collect();
    Conversation { messages, tools: Vec::new() }
}

/// Forgets all messages but the system message.
pub(crate) fn reset(conversation: &mut Conversation) {
    let has_system = conversation.messages.first().is_some_and(|message| message.role == "system");
    conversation.messages.truncate(usize::from(has_system));
}

/// Reads the conversation in a line of JSON: an object with `messages`, or the list of messages. `system`
/// becomes the system message of a conversation that has none.
pub(crate) fn parse(line: &str, system: Option<&str>) -> Result<Conversation> {
    let value: Value = serde_json::from_str(line).context("not valid JSON")?;
    let mut conversation = match value {
        Value::Array(_) => {
            Conversation { messages: serde_json::from_value(value).context("messages")?, tools: Vec::new() }
        }
        _ => serde_json::from_value(value)
            .hint("a line is {\"messages\": [{\"role\": \"user\", \"content\": ...}]}")?,
    };
    let messages = &mut conversation.messages;
    if messages.is_empty() {
        return Err(error!(Malformed, "no messages"));
    }
    let is_silent =
        |message: &Message| message.content.is_none() && !message.extra.contains_key("tool_calls");
    if let Some(index) = messages.iter().position(is_silent) {
        return Err(error!(Malformed, "message {} has no content", index + 1));
    }
    if let Some(system) = system.filter(|_| messages[0].role != "system") {
        messages.insert(0, Message::new("system", system));
    }
    Ok(conversation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_keeps_the_system_message() {
        for (system, left) in [(Some("s"), 1), (None, 0)] {
            let mut conversation = begin(system);
            conversation.messages.push(Message::new("user", "q"));
            reset(&mut conversation);
            assert_eq!(conversation, begin(system));
            assert_eq!(conversation.messages.len(), left);
        }
    }
}
