//! Rows with a list of messages: ShareGPT's `conversations` of `from` and `value`, or OpenAI's
//! `messages` of `role` and `content`, with tool calls of either kind.

use crate::text::{Conversation, Message};
use crate::{Context, Result, bail, error};
use serde_json::{Map, Value, json};

use super::json::parse;
use super::source::{Columns, Tags};
use super::{kind_of, list, system_message, text};

/// The conversation of a row.
pub fn conversation(row: &Value, columns: &Columns, tags: &Tags) -> Result<Conversation> {
    let column = columns.messages_of(row);
    let Some(turns) = list(row, column)? else { bail!(Row, "{column} is missing") };
    let mut messages: Vec<Message> = system_message(row, columns)?.into_iter().collect();
    for (index, turn) in turns.iter().enumerate() {
        messages.push(message(turn, tags).with_context(|| format!("{column}, message {}", index + 1))?);
    }
    if !messages.iter().any(Message::is_assistant) {
        bail!(Row, "no answer: {column} has no assistant message");
    }
    Ok(Conversation { messages, tools: tools(row, columns)? })
}

fn message(turn: &Value, tags: &Tags) -> Result<Message> {
    let Value::Object(fields) = turn else { bail!(Row, "an object expected, found {}", kind_of(turn)) };
    let (role_tag, content_tag) = tags.fields_of(turn);
    let role = text(turn, role_tag)?.ok_or_else(|| error!(Row, "{role_tag} is missing"))?;
    if role == tags.function {
        let calls = content(fields, content_tag)?.unwrap_or_default();
        return calling(&calls).with_context(|| format!("{role_tag} is {role:?}"));
    }
    let role = match role {
        role if role == tags.user => "user",
        role if role == tags.assistant => "assistant",
        role if role == tags.system => "system",
        role if role == tags.observation => "tool",
        "user" | "human" => "user",
        "assistant" | "gpt" => "assistant",
        "system" => "system",
        "tool" | "function" | "observation" => "tool",
        other => bail!(Row, "{role_tag}: {other:?} is none of the roles user, assistant, system, tool"),
    };
    let mut message = Message::new(role, "");
    for (name, value) in fields {
        match name.as_str() {
            "tool_calls" if !value.is_null() => {
                message.extra.insert(name.clone(), tool_calls(value)?);
            }
            "reasoning_content" | "name" | "tool_call_id" if value.is_string() => {
                message.extra.insert(name.clone(), value.clone());
            }
            _ => {}
        }
    }
    match content(fields, content_tag)? {
        Some(content) => message.content = Some(content),
        None if message.extra.contains_key("tool_calls") => {}
        None if role == "assistant" => bail!(Row, "no answer: {content_tag} is missing"),
        None => bail!(Row, "{content_tag} is missing"),
    }
    Ok(message)
}

/// A text, or the texts of a list of parts.
fn content(fields: &Map<String, Value>, tag: &str) -> Result<Option<String>> {
    match fields.get(tag) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(parts)) => {
            let text = |part: &Value| match part["type"].as_str() {
                Some("text") => part["text"].as_str().map(str::to_owned),
                _ => None,
            };
            let texts: Option<String> = parts.iter().map(text).collect();
            texts.map(Some).ok_or_else(|| error!(Row, "{tag}: only parts of type \"text\" can be trained on"))
        }
        Some(other) => Err(error!(Row, "{tag}: a text expected, found {}", kind_of(other))),
    }
}

/// A ShareGPT `function_call`: JSON of one call or of a list of calls, `{"name", "arguments"}`.
fn calling(text: &str) -> Result<Message> {
    let calls = parse(text).context("a function call is not valid JSON")?;
    let calls = if calls.is_array() { calls } else { json!([calls]) };
    let mut message = Message::new("assistant", "");
    message.extra.insert("tool_calls".into(), tool_calls(&calls)?);
    Ok(message)
}

/// Tool calls as chat templates read them: arguments as an object, not as a text holding one.
fn tool_calls(calls: &Value) -> Result<Value> {
    let Value::Array(calls) = calls else {
        bail!(Row, "tool_calls: a list expected, found {}", kind_of(calls));
    };
    let call = |call: &Value| {
        let function = call.get("function").unwrap_or(call);
        let name = function.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| error!(Row, "a tool call has no name"))?;
        let arguments = match function.get("arguments") {
            None | Some(Value::Null) => json!({}),
            Some(Value::String(text)) => parse(text).unwrap_or_else(|_| json!(text)),
            Some(other) => other.clone(),
        };
        Ok(json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
    };
    calls.iter().map(call).collect()
}

/// The tools of a row, a list or the JSON text of one, each as `{"type": "function", ...}`.
fn tools(row: &Value, columns: &Columns) -> Result<Vec<Value>> {
    let column = columns.tools.as_str();
    let tools = match row.get(column) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(Value::String(text)) => parse(text).with_context(|| format!("{column} is not valid JSON"))?,
        Some(other) => other.clone(),
    };
    let Value::Array(tools) = tools else {
        bail!(Row, "{column}: a list of tools expected, found {}", kind_of(&tools));
    };
    let wrap = |tool: Value| match tool.get("function") {
        Some(_) => tool,
        None => json!({"type": "function", "function": tool}),
    };
    Ok(tools.into_iter().map(wrap).collect())
}
