//! The size of the input of a template.

use serde_json::{Map, Value};

use crate::text::Message;

/// The size of the messages and tools that a template is given.
#[derive(Debug, Default)]
pub(super) struct InputSize {
    /// The number of messages.
    pub messages: usize,
    /// The number of entries of lists and objects in messages and tools.
    pub entries: usize,
    /// The bytes of all texts.
    pub bytes: usize,
    /// The deepest nesting of lists and objects.
    pub nesting: usize,
}

impl InputSize {
    /// Adds a message.
    pub(super) fn message(&mut self, message: &Message) {
        self.messages += 1;
        self.bytes += message.role.len() + message.content.as_deref().map_or(0, str::len);
        self.object(&message.extra, 1);
    }

    /// Adds a value that is nested in `nesting` others.
    pub(super) fn value(&mut self, value: &Value, nesting: usize) {
        self.entries += 1;
        match value {
            Value::String(text) => self.bytes += text.len(),
            Value::Array(items) => {
                self.nesting = self.nesting.max(nesting);
                items.iter().for_each(|item| self.value(item, nesting + 1));
            }
            Value::Object(object) => self.object(object, nesting),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn object(&mut self, object: &Map<String, Value>, nesting: usize) {
        self.nesting = self.nesting.max(nesting);
        for (key, value) in object {
            self.bytes += key.len();
            self.value(value, nesting + 1);
        }
    }
}
