//! Rows with `instruction`, `input`, `output`, and optionally `system` and `history`.

use common::text::{Conversation, Message};
use common::{Result, bail, error};
use serde_json::Value;

use super::source::Columns;
use super::{kind_of, system_message, text};

/// The conversation of a row: earlier turns of `history`, then instruction and input, joined by a
/// newline, as the user's turn and the output as the answer.
pub fn conversation(row: &Value, columns: &Columns) -> Result<Conversation> {
    let mut messages: Vec<Message> = system_message(row, columns)?.into_iter().collect();
    for (user, assistant) in history(row, columns)? {
        messages.push(Message::new("user", user));
        messages.push(Message::new("assistant", assistant));
    }
    let instruction = text(row, &columns.prompt)?;
    let input = text(row, &columns.query)?.filter(|input| !input.is_empty());
    let question: Vec<&str> = instruction.into_iter().chain(input).collect();
    if question.is_empty() {
        bail!("neither {} nor {}", columns.prompt, columns.query);
    }
    let answer =
        text(row, &columns.response)?.ok_or_else(|| error!("no answer: {} is missing", columns.response))?;
    messages.push(Message::new("user", question.join("\n")));
    messages.push(Message::new("assistant", answer));
    Ok(Conversation { messages, tools: Vec::new() })
}

fn history<'a>(row: &'a Value, columns: &Columns) -> Result<Vec<(&'a str, &'a str)>> {
    let Some(column) = &columns.history else { return Ok(Vec::new()) };
    let turns = match row.get(column) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(turns)) => turns,
        Some(other) => {
            bail!("{column}: a list of [question, answer] pairs expected, found {}", kind_of(other))
        }
    };
    let pair = |turn: &'a Value| Some((turn.get(0)?.as_str()?, turn.get(1)?.as_str()?));
    turns
        .iter()
        .enumerate()
        .map(|(index, turn)| {
            pair(turn).ok_or_else(|| error!("{column}, entry {}: a pair of texts expected", index + 1))
        })
        .collect()
}
