//! Rows with `instruction`, `input`, `output`, and optionally `system`, `history` and `tools`.

use crate::text::{Conversation, Message};
use crate::{Result, bail, error};
use serde_json::Value;

use super::{Columns, list, system_message, text, tools};

/// The conversation of a row: the turns of `history`, then instruction and input, joined by a newline, as
/// the user's turn, and the output as the answer.
pub(super) fn conversation(row: &Value, columns: &Columns) -> Result<Conversation> {
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
    let asked = [&columns.prompt, &columns.query].into_iter().flatten();
    let texts = asked.clone().map(|column| text(row, column)).collect::<Result<Vec<_>>>()?;
    if !texts.is_empty() && texts.iter().all(Option::is_none) {
        bail!(Row, "neither {}", asked.cloned().collect::<Vec<_>>().join(" nor "));
    }
    let question: Vec<&str> = texts.into_iter().flatten().filter(|text| !text.is_empty()).collect();
    let Some(column) = &columns.response else { bail!(Row, "no column of answers is named") };
    let answer = text(row, column)?.ok_or_else(|| error!(Row, "no answer: {column} is missing"))?;
    messages.push(Message::new("user", question.join("\n")));
    messages.push(Message::new("assistant", answer));
    Ok(Conversation { messages, tools: tools(row, columns)? })
}
