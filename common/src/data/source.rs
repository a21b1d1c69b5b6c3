//! Which file, in which format: a path, or a name in LLaMA-Factory's `dataset_info.json`.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Context, Result, bail, error};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{RowLimit, hub};

/// Public datasets that need no `dataset_info.json`: those for supervised fine-tuning that
/// LLaMA-Factory lists, with its names, in the form of that file.
const KNOWN: &str = include_str!("known.json");

/// The two shapes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// A list of messages.
    #[serde(alias = "openai")]
    ShareGpt,
}

/// Names of a row's columns.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    pub(super) prompt: String,
    pub(super) query: String,
    pub(super) response: String,
    pub(super) history: Option<String>,
    pub(super) messages: Option<String>,
    pub(super) system: Option<String>,
    pub(super) tools: String,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            prompt: "instruction".into(),
            query: "input".into(),
            response: "output".into(),
            history: Some("history".into()),
            messages: None,
            system: Some("system".into()),
            tools: "tools".into(),
        }
    }
}

impl Columns {
    /// Whether a column of this name is read.
    pub(super) fn is_read(&self, name: &str) -> bool {
        let Self { prompt, query, response, history, messages, system, tools } = self;
        let is_messages = match messages {
            Some(column) => column == name,
            None => matches!(name, "messages" | "conversations"),
        };
        let optional = [history, system].into_iter().flatten();
        is_messages
            || [prompt, query, response, tools].into_iter().chain(optional).any(|column| column == name)
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

/// Names of a message's fields and of the roles in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Tags {
    #[serde(rename = "role_tag")]
    role: Option<String>,
    #[serde(rename = "content_tag")]
    content: Option<String>,
    #[serde(rename = "user_tag")]
    pub(super) user: String,
    #[serde(rename = "assistant_tag")]
    pub(super) assistant: String,
    #[serde(rename = "observation_tag")]
    pub(super) observation: String,
    #[serde(rename = "function_tag")]
    pub(super) function: String,
    #[serde(rename = "system_tag")]
    pub(super) system: String,
}

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

/// Files of examples and how to read them.
#[derive(Debug, Clone)]
pub struct Source {
    /// The files, one after the other.
    pub files: Vec<PathBuf>,
    /// Recognised by the first row where it is not given.
    pub format: Option<Format>,
    /// Names of columns.
    pub columns: Columns,
    /// Names of fields and roles of messages.
    pub tags: Tags,
    /// Read no more usable rows than this.
    pub max_samples: Option<usize>,
    /// How long a row may be.
    pub row_limit: RowLimit,
}

/// An entry of `dataset_info.json`. Keys that do not change what is read (a revision, say) pass.
#[derive(Deserialize)]
struct Entry {
    file_name: Option<String>,
    hf_hub_url: Option<String>,
    subset: Option<String>,
    folder: Option<String>,
    split: Option<String>,
    formatting: Option<Format>,
    #[serde(default)]
    ranking: bool,
    #[serde(default)]
    columns: Map<String, Value>,
    #[serde(default)]
    tags: Tags,
    num_samples: Option<usize>,
}

impl Source {
    /// A file in a format to be recognised.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            files: vec![path.into()],
            format: None,
            columns: Columns::default(),
            tags: Tags::default(),
            max_samples: None,
            row_limit: RowLimit::default(),
        }
    }

    /// The dataset called `name` in the `dataset_info.json` of `directory`, or the public one that
    /// LLaMA-Factory calls so.
    pub fn named(name: &str, directory: &Path) -> Result<Self> {
        let path = directory.join("dataset_info.json");
        let mut entries: Map<String, Value> = Map::new();
        if path.exists() {
            let text = fs_err::read_to_string(&path)?;
            entries = serde_json::from_str(&text)
                .with_context(|| format!("{} is not valid JSON", path.display()))?;
        }
        let mut known: Map<String, Value> = serde_json::from_str(KNOWN)?;
        let (entry, place) = match (entries.remove(name), known.remove(name)) {
            (Some(entry), _) => (entry, path.display().to_string()),
            (None, Some(entry)) => (entry, "public datasets".to_owned()),
            (None, None) if !path.exists() => {
                return Err(error!("there is no dataset {name:?}, and no {}", path.display())
                    .hint("--dataset-dir names the directory of dataset_info.json; --data FILE needs none"));
            }
            (None, None) => {
                let names: Vec<&str> = entries.keys().map(String::as_str).collect();
                return Err(error!("{} has no dataset {name:?}", path.display())
                    .hint(format_args!("it has {}", names.join(", "))));
            }
        };
        let within = || format!("{place}, {name}");
        let entry: Entry = serde_json::from_value(entry).with_context(within)?;
        Self::from_entry(entry, directory).with_context(within)
    }

    fn from_entry(entry: Entry, directory: &Path) -> Result<Self> {
        if entry.ranking {
            bail!(Unsupported, "ranking data trains preferences, which lora-train does not");
        }
        for media in ["images", "videos", "audios"] {
            if entry.columns.contains_key(media) {
                bail!(Unsupported, "it holds {media}, which lora-train does not train on");
            }
        }
        let files = match (entry.file_name, entry.hf_hub_url) {
            (Some(file_name), _) => data_files(directory.join(file_name))?,
            (None, Some(url)) => {
                let folder = entry.folder.or(entry.subset);
                let split = entry.split.as_deref().unwrap_or("train");
                hub::files(hub::repository(&url)?, folder.as_deref(), split)?
            }
            (None, None) => {
                return Err(error!("it has neither file_name nor hf_hub_url")
                    .hint("download it and name its file with --data"));
            }
        };
        let format = entry.formatting.unwrap_or(Format::Alpaca);
        let columns: Columns = serde_json::from_value(Value::Object(entry.columns)).context("columns")?;
        Ok(Self {
            files,
            format: Some(format),
            columns,
            tags: entry.tags,
            max_samples: entry.num_samples,
            row_limit: RowLimit::default(),
        })
    }

    /// Everything that decides what is read from the files.
    pub fn reading(&self) -> String {
        let Self { files, format, columns, tags, max_samples, row_limit: _ } = self;
        format!("{} {format:?} {columns:?} {tags:?} {max_samples:?}", files.len())
    }

    /// The format of a row.
    pub(super) fn recognise(&self, row: &Value) -> Result<Format> {
        if row.get(self.columns.messages_of(row)).is_some() {
            return Ok(Format::ShareGpt);
        }
        if row.get(&self.columns.prompt).is_some() || row.get(&self.columns.response).is_some() {
            return Ok(Format::Alpaca);
        }
        let found: Vec<&str> =
            row.as_object().map_or(Vec::new(), |row| row.keys().map(String::as_str).collect());
        Err(error!(
            Row,
            "instruction and output, messages or conversations expected, found {}",
            if found.is_empty() { "nothing".into() } else { found.join(", ") }
        ))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.files[..] {
            [] => f.write_str("no file"),
            [file] => write!(f, "{}", file.display()),
            [first, others @ ..] => write!(f, "{} and {} more", first.display(), others.len()),
        }
    }
}

/// A file, or the files in a folder.
fn data_files(path: PathBuf) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path]);
    }
    let entries = fs_err::read_dir(&path)?.map(|entry| Ok(entry?.path()));
    let mut files = entries.collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.is_file());
    files.sort();
    match files.is_empty() {
        true => Err(error!(Malformed, "{} is empty", path.display())),
        false => Ok(files),
    }
}
