//! `/v1/chat/completions`: the assistant's answer to a conversation.

use common::text::{Conversation, Message};
use serde_json::{Map, Value, json};

use super::endpoint::{Endpoint, Piece, Wanted, most_likely};
use super::{Fields, Problem, logprobs};
use crate::serve::catalog::{Catalog, Prompt};

/// The address of conversations.
pub(crate) struct Chat;

impl Endpoint for Chat {
    fn id_prefix(&self) -> &'static str {
        "chatcmpl"
    }

    fn objects(&self) -> [&'static str; 2] {
        ["chat.completion", "chat.completion.chunk"]
    }

    fn take(&self, fields: &mut Fields, catalog: &Catalog) -> Result<Wanted, Problem> {
        let messages: Vec<Map<String, Value>> = fields.required("messages")?;
        let messages = messages.into_iter().enumerate().map(|(index, fields)| message(index, fields));
        let mut messages = messages.collect::<Result<Vec<_>, _>>()?;
        if messages.is_empty() {
            return Err(Problem::field("messages", "1 or more expected, found none"));
        }
        if let Some(system) = catalog.system.as_ref().filter(|_| messages[0].role != "system") {
            messages.insert(0, Message::new("system", system));
        }
        fields.only("tool_choice", &[json!("auto"), json!("none")])?;
        fields.only("parallel_tool_calls", &[json!(true)])?;
        fields.only("response_format", &[json!({"type": "text"})])?;
        let tools = fields.optional("tools")?.unwrap_or_default();
        let wants_logprobs = fields.optional("logprobs")?.unwrap_or(false);
        let most = fields.optional("top_logprobs")?;
        if most.is_some() && !wants_logprobs {
            return Err(Problem::field("top_logprobs", "logprobs must be true"));
        }
        let most = most_likely("top_logprobs", most)?;
        Ok(Wanted {
            prompts: vec![Prompt::Conversation(Conversation { messages, tools })],
            logprobs: wants_logprobs.then_some(most),
        })
    }

    fn beginning(&self, index: usize) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": ""});
        Some(json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null}))
    }

    fn part(&self, piece: &Piece) -> Value {
        let is_empty = piece.text.is_empty() && piece.logprobs.is_none();
        let delta = if is_empty { json!({}) } else { json!({"content": piece.text}) };
        choice(piece, "delta", delta)
    }

    fn whole(&self, piece: &Piece) -> Value {
        choice(piece, "message", json!({"role": "assistant", "content": piece.text, "refusal": null}))
    }
}

fn choice(piece: &Piece, name: &str, content: Value) -> Value {
    let logprobs = piece.logprobs.map(logprobs::of_chat);
    let reason = piece.finish_reason();
    json!({"index": piece.index, name: content, "logprobs": logprobs, "finish_reason": reason})
}

/// Reads a message. Its content is a text or a list of parts of a text; an assistant that calls tools may say
/// nothing.
fn message(index: usize, mut fields: Map<String, Value>) -> Result<Message, Problem> {
    let wrong = |message: &str| Problem::field(&format!("messages[{index}]"), message);
    let Some(Value::String(role)) = fields.shift_remove("role") else {
        return Err(wrong("a role expected, such as user"));
    };
    let content = match fields.shift_remove("content") {
        None | Some(Value::Null) if fields.get("tool_calls").is_some_and(Value::is_array) => None,
        Some(Value::String(text)) => Some(text),
        Some(Value::Array(parts)) => {
            let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text.to_owned()),
                _ => Err(wrong("parts of type text expected; images and sounds are not supported")),
            };
            Some(parts.iter().map(text).collect::<Result<String, _>>()?)
        }
        _ => return Err(wrong("a content expected: a text, or a list of parts of a text")),
    };
    if let Some(Value::Array(calls)) = fields.get_mut("tool_calls") {
        calls.iter_mut().for_each(parse_arguments);
    }
    Ok(Message { role, content, extra: fields, masked: false })
}

/// Replaces the arguments of a call, which the API writes as a text, by what the text says, as templates expect it.
fn parse_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    if let Some(Ok(parsed @ Value::Object(_))) = arguments.as_str().map(serde_json::from_str) {
        *arguments = parsed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<Message, String> {
        let Value::Object(fields) = value else { panic!("an object") };
        message(3, fields).map_err(|problem| problem.json()["error"]["message"].to_string())
    }

    #[test]
    fn content_is_a_text_or_its_parts() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        assert_eq!(read(json!({"role": "user", "content": parts})).unwrap(), Message::new("user", "ab"));
        for wrong in [
            json!({"content": "a"}),
            json!({"role": "user"}),
            json!({"role": "user", "content": 1}),
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        ] {
            let problem = read(wrong.clone()).unwrap_err();
            assert!(problem.starts_with("\"messages[3]: "), "{wrong}: {problem}");
        }
    }

    #[test]
    fn templates_get_the_arguments_of_calls_as_objects() {
        let call =
            json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}});
        let message = read(json!({"role": "assistant", "content": null, "tool_calls": [call]})).unwrap();
        assert_eq!(message.content, None);
        assert_eq!(message.extra["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
    }
}
