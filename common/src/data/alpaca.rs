//! Rows with `instruction`, `input`, `output`, and optionally `system` and `history`.

use crate::text::{Conversation, Message};
use crate::{Result, bail, error};
use serde_json::Value;

use super::source::Columns;
use super::{list, system_message, text};

/// The conversation of a row: earlier turns of `history`, then instruction and input, joined by a
/// newline, as the user's turn and the output as the answer.
pub fn conversation(row: &Value, columns: &Columns) -> Result<Conversation> {
    let mut messages: Vec<Message> = system_message(row, columns)?.into_iter().collect();
    if let Some(column) = &columns.history {
        for (index, turn) in list(row, column)?.iter().flat_map(|turns| turns.iter()).enumerate() {
            let pair = turn.get(0).and_then(Value::as_str).zip(turn.get(1).and_then(Value::as_str));
            let Some((user, assistant)) = pair else {
                bail!(Row, "{column}, entry {}: a pair of texts expected", index + 1);
            };
            messages.push(Message::new("user", user));
            messages.push(Message::new("assistant", assistant));
        }
    }
    let instruction = text(row, &columns.prompt)?;
    let input = text(row, &columns.query)?.filter(|input| !input.is_empty());
    let question: Vec<&str> = instruction.into_iter().chain(input).collect();
    if question.is_empty() {
        bail!(Row, "neither {} nor {}", columns.prompt, columns.query);
    }
    let answer = text(row, &columns.response)?
        .ok_or_else(|| error!(Row, "no answer: {} is missing", columns.response))?;
    messages.push(Message::new("user", question.join("\n")));
    messages.push(Message::new("assistant", answer));
    Ok(Conversation { messages, tools: Vec::new() })
}
