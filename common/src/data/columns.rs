//! The format of a row: which of its columns are read, and which fields and roles its messages have.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::{Result, bail, error};

/// The two formats of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Columns `instruction`, `input` and `output`.
    Alpaca,
    /// A list of messages.
    #[serde(alias = "openai")]
    ShareGpt,
}

/// The names of the columns of a row. A column without a name is not read.
#[derive(Debug, Clone)]
pub struct Columns {
    pub(super) prompt: Option<String>,
    pub(super) query: Option<String>,
    pub(super) response: Option<String>,
    pub(super) history: Option<String>,
    pub(super) messages: Option<String>,
    pub(super) system: Option<String>,
    pub(super) tools: Option<String>,
    /// Whether the user has named the columns, so that each must exist.
    named: bool,
}

impl Default for Columns {
    /// All columns by their usual names.
    fn default() -> Self {
        Self {
            history: Some("history".into()),
            system: Some("system".into()),
            tools: Some("tools".into()),
            ..Self::unnamed()
        }
    }
}

/// Columns of preferences and media, which are not supported, and what each is for.
const OTHERS: [(&str, &str); 4] = [
    ("kto_tag", "preferences, which lora-train does not train"),
    ("images", "images, which lora-train does not train on"),
    ("videos", "videos, which lora-train does not train on"),
    ("audios", "audio, which lora-train does not train on"),
];

impl Columns {
    /// The columns of a data set whose `columns` are left out, as LLaMA-Factory reads them.
    pub(super) fn unnamed() -> Self {
        Self {
            prompt: Some("instruction".into()),
            query: Some("input".into()),
            response: Some("output".into()),
            history: None,
            messages: None,
            system: None,
            tools: None,
            named: false,
        }
    }

    /// The columns that `columns` names. Columns that it leaves out, or names null or "", are not read.
    pub(super) fn named(columns: &Map<String, Value>, format: Format) -> Result<Self> {
        let mut named = Self {
            prompt: None,
            query: None,
            response: None,
            history: None,
            messages: None,
            system: None,
            tools: None,
            named: true,
        };
        for (key, value) in columns {
            let column = match value {
                Value::Null => None,
                Value::String(name) => Some(name.clone()).filter(|name| !name.is_empty()),
                other => bail!(Malformed, "columns: {key}: the name of a column expected, found {other}"),
            };
            let place = match key.as_str() {
                "prompt" => &mut named.prompt,
                "query" => &mut named.query,
                "response" => &mut named.response,
                "history" => &mut named.history,
                "messages" => &mut named.messages,
                "system" => &mut named.system,
                "tools" => &mut named.tools,
                // They have a meaning beside `ranking` only.
                "chosen" | "rejected" => continue,
                other => match OTHERS.iter().find(|(key, _)| *key == other) {
                    Some(_) if column.is_none() => continue,
                    Some((_, what)) => {
                        return Err(error!("columns: {key} names {what}")
                            .hint("set it to null to train the answers as they are"));
                    }
                    None => {
                        return Err(error!("columns: unknown key {key:?}").hint(
                            "the keys are prompt, query, response, history, messages, system and tools",
                        ));
                    }
                },
            };
            *place = column;
        }
        if format == Format::Alpaca && named.response.is_none() {
            return Err(error!("columns: response is left out, so that there is no answer to train")
                .hint("name the column of the answers: \"response\": \"output\""));
        }
        Ok(named)
    }

    /// The columns that the user has named, as pairs of the key in `columns` and the name.
    pub(super) fn expected(&self, format: Format) -> Vec<(&'static str, &str)> {
        if !self.named {
            return Vec::new();
        }
        let columns = match format {
            Format::Alpaca => vec![
                ("prompt", &self.prompt),
                ("query", &self.query),
                ("response", &self.response),
                ("history", &self.history),
            ],
            Format::ShareGpt => vec![("messages", &self.messages)],
        };
        let all = columns.into_iter().chain([("system", &self.system), ("tools", &self.tools)]);
        all.filter_map(|(key, column)| Some((key, column.as_deref()?))).collect()
    }

    /// Columns of `row` that a user may expect to be read, although `columns` does not name them.
    pub(super) fn unread(&self, row: &Value) -> Vec<&'static str> {
        let usual = [("history", &self.history), ("system", &self.system), ("tools", &self.tools)];
        let unread = usual.into_iter().filter(|(_, column)| column.is_none() && !self.named);
        let holds_something = |name: &&str| match row.get(*name) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !["", "[]"].contains(&text.trim()),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        unread.map(|(name, _)| name).filter(holds_something).collect()
    }

    /// Whether a column of this name is needed: it is read, or mentioned in a note because it is not read.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        let Self { prompt, query, response, history, messages, system, tools, named } = self;
        let is_messages = match messages {
            Some(column) => column == name,
            None => matches!(name, "messages" | "conversations"),
        };
        let is_usual = !named && matches!(name, "history" | "system" | "tools");
        let mut others = [prompt, query, response, history, system, tools].into_iter().flatten();
        is_messages || is_usual || others.any(|column| column == name)
    }

    /// The column that holds the messages of `row`.
    pub(super) fn messages_of<'a>(&'a self, row: &Value) -> &'a str {
        match &self.messages {
            Some(column) => column,
            None if row.get("messages").is_some() => "messages",
            None => "conversations",
        }
    }
}

/// The names of a message's fields and of its roles.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Tags {
    #[serde(rename = "role_tag")]
    role: Option<String>,
    #[serde(rename = "content_tag")]
    content: Option<String>,
    #[serde(rename = "user_tag", deserialize_with = "user")]
    pub(super) user: String,
    #[serde(rename = "assistant_tag", deserialize_with = "assistant")]
    pub(super) assistant: String,
    #[serde(rename = "observation_tag", deserialize_with = "observation")]
    pub(super) observation: String,
    #[serde(rename = "function_tag", deserialize_with = "function")]
    pub(super) function: String,
    #[serde(rename = "system_tag", deserialize_with = "system")]
    pub(super) system: String,
}

/// Defines readers of tags, for which null stands for the usual value.
macro_rules! usual {
    ($($tag:ident),*) => { $(
        fn $tag<'de, D: Deserializer<'de>>(tag: D) -> Result<String, D::Error> {
            Ok(Option::deserialize(tag)?.unwrap_or_else(|| Tags::default().$tag))
        }
    )* };
}
usual!(user, assistant, observation, function, system);

impl Default for Tags {
    fn default() -> Self {
        Self {
            role: None,
            content: None,
            user: "human".into(),
            assistant: "gpt".into(),
            observation: "observation".into(),
            function: "function_call".into(),
            system: "system".into(),
        }
    }
}

impl Tags {
    /// The fields of `message` that hold its role and its content.
    pub(super) fn fields_of<'a>(&'a self, message: &Value) -> (&'a str, &'a str) {
        let is_openai = message.get("role").is_some();
        (
            self.role.as_deref().unwrap_or(if is_openai { "role" } else { "from" }),
            self.content.as_deref().unwrap_or(if is_openai { "content" } else { "value" }),
        )
    }
}
