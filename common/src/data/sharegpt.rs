//! Rows with a list of messages: ShareGPT's `conversations` of `from` and `value`, or OpenAI's
//! `messages` of `role` and `content`, with tool calls of either kind.

use crate::json::{kind_of, parse};
use crate::text::{Conversation, Message};
use crate::{Context, Result, bail, error};
use serde_json::{Map, Value, json};

use super::{Columns, Tags, list, system_message, text, tools};

/// The conversation of a row.
pub(super) fn conversation(row: &Value, columns: &Columns, tags: &Tags) -> Result<Conversation> {
    let column = columns.messages_of(row);
    let Some(turns) = list(row, column)? else { bail!(Row, "{column} is missing") };
    let mut messages: Vec<Message> = Vec::with_capacity(turns.len() + 1);
    for (index, turn) in turns.iter().enumerate() {
        messages.push(message(turn, tags).with_context(|| format!("{column}, message {}", index + 1))?);
    }
    // As in LLaMA-Factory, a system message among the messages goes before a column.
    if messages.first().is_none_or(|first| first.role != "system")
        && let Some(system) = system_message(row, columns)?
    {
        messages.insert(0, system);
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
        let mut message = calling(&calls).with_context(|| format!("{role_tag} is {role:?}"))?;
        message.masked = is_masked(fields)?;
        return Ok(message);
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
    message.masked = is_masked(fields)?;
    Ok(message)
}

/// Fields of a message that say whether it is trained, as OpenAI, axolotl and ms-swift name them.
const TRAINED: [&str; 3] = ["weight", "train", "loss"];

/// Whether a field of the message excludes it from training.
fn is_masked(fields: &Map<String, Value>) -> Result<bool> {
    let mut masked = false;
    for name in TRAINED {
        masked |= match fields.get(name) {
            None | Some(Value::Null | Value::Bool(true)) => false,
            Some(Value::Bool(false)) => true,
            Some(value) => match value.as_f64() {
                Some(0.0) => true,
                Some(1.0) => false,
                _ => bail!(Row, "{name}: 0 or 1 expected, found {value}"),
            },
        };
    }
    Ok(masked)
}

/// The content of a message: a text, or the texts of a list of parts.
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

/// The tags around what a model thinks before it calls a function.
const THOUGHT: (&str, &str) = ("<think>", "</think>");

/// The tags that may stand around a function call.
const CALL: (&str, &str) = ("<tool_call>", "</tool_call>");

const NO_CALL: &str = "a function call is not valid JSON";

/// The message of a ShareGPT `function_call`: the JSON of one call or of a list of calls, each
/// `{"name", "arguments"}`. As in LLaMA-Factory, calls may stand between tags, and thoughts or other text
/// before them are kept.
fn calling(text: &str) -> Result<Message> {
    let text = text.trim();
    let (thought, rest) = match text.strip_prefix(THOUGHT.0).map(|rest| rest.split_once(THOUGHT.1)) {
        Some(Some((_, rest))) => text.split_at(text.len() - rest.len()),
        Some(None) => bail!(Row, "{} is never closed", THOUGHT.0),
        None => ("", text),
    };
    let json = rest.trim_start();
    let mut said = format!("{thought}{}", &rest[..rest.len() - json.len()]);
    let mut calls = Vec::new();
    match (parse(json), json.split_once(CALL.0)) {
        (Ok(call), _) => add(call, &mut calls),
        (Err(problem), None) => return Err(problem).context(NO_CALL),
        (Err(_), Some((before, marked))) => {
            said.push_str(before);
            for part in marked.split(CALL.0) {
                let Some((call, after)) = part.split_once(CALL.1) else {
                    bail!(Row, "{} is never closed", CALL.0);
                };
                add(parse(call).context(NO_CALL)?, &mut calls);
                said.push_str(after.trim());
            }
        }
    }
    // Templates begin a new line for a call that follows a text.
    let mut message = Message::new("assistant", said.strip_suffix('\n').unwrap_or(&said));
    message.extra.insert("tool_calls".into(), tool_calls(&Value::Array(calls))?);
    Ok(message)
}

fn add(call: Value, calls: &mut Vec<Value>) {
    match call {
        Value::Array(several) => calls.extend(several),
        one => calls.push(one),
    }
}

/// Tool calls as chat templates read them, with arguments as an object instead of its JSON text.
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
