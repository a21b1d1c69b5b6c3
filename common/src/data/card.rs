//! The subsets that the README of a data set lists, under `configs` in its front matter.

use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::{Context, Error, Result, error, files};

use super::TRAIN;

/// The subsets that a data set names.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Card {
    /// The subsets, in the order of the README.
    #[serde(default, rename = "configs", deserialize_with = "listed")]
    pub subsets: Vec<Subset>,
}

/// Reads a list, which is empty where the value is null.
fn listed<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<Subset>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}

/// A subset of a data set: some of its files, in splits.
#[derive(Debug, Deserialize)]
pub(super) struct Subset {
    config_name: Value,
    data_files: Option<Value>,
    /// The folder that the patterns are relative to.
    pub data_dir: Option<String>,
    default: Option<bool>,
}

/// A split's name, and the patterns of its files.
pub(super) type Named = (String, Vec<String>);

impl Card {
    /// The files that may describe a data set. The second has precedence.
    pub(super) const FILES: [&str; 2] = ["README.md", ".huggingface.yaml"];

    /// Reads the subsets that the data set in `root` lists.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut card = Self::default();
        for name in Self::FILES {
            let path = root.join(name);
            if !path.exists() {
                continue;
            }
            // Only the front matter has to be UTF-8.
            let text = files::read(&path, files::CONFIG)?;
            let text = String::from_utf8_lossy(&text);
            let yaml = if name.ends_with(".md") { front_matter(&text) } else { Some(&*text) };
            let Some(yaml) = yaml.filter(|yaml| yaml.lines().any(|line| line.starts_with("configs:"))) else {
                continue;
            };
            // As in the datasets library, a repeated key has its last value.
            let options =
                serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins, with_snippet: false };
            card = serde_saphyr::from_str_with_options(yaml, options)
                .map_err(|problem| error!("{problem}").hint("name the data set's files with --data"))
                .with_context(|| path.display().to_string())?;
        }
        Ok(card)
    }

    /// The subset of a name.
    pub(super) fn subset(&self, name: &str) -> Result<&Subset> {
        self.subsets
            .iter()
            .find(|subset| subset.name() == name)
            .ok_or_else(|| error!("the data set has no subset {name:?}").hint(self.names()))
    }

    /// The subset that is read where the user names none; `None` where the README lists none.
    pub(super) fn default_subset(&self) -> Result<Option<&Subset>> {
        let is_default = |subset: &&Subset| subset.name() == "default" || subset.default == Some(true);
        match &self.subsets[..] {
            [] => Ok(None),
            [only] => Ok(Some(only)),
            subsets => match subsets.iter().find(is_default) {
                Some(subset) => Ok(Some(subset)),
                None => Err(error!("the data set has several subsets, and none is named").hint(self.names())),
            },
        }
    }

    fn names(&self) -> String {
        let names: Vec<String> = self.subsets.iter().map(Subset::name).collect();
        format!("name one with `subset`: {}", names.join(", "))
    }
}

impl Subset {
    fn name(&self) -> String {
        text(&self.config_name)
    }

    /// The patterns of the files of each split; `None` where the README does not name them.
    pub(super) fn splits(&self) -> Result<Option<Vec<Named>>> {
        let of_train = |patterns| Ok(Some(vec![(TRAIN.to_owned(), patterns)]));
        match &self.data_files {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(pattern)) => of_train(vec![pattern.clone()]),
            Some(Value::Array(entries)) if entries.iter().all(Value::is_string) => {
                of_train(entries.iter().map(text).collect())
            }
            Some(Value::Array(entries)) => {
                entries.iter().map(|entry| self.split(entry)).collect::<Result<_>>().map(Some)
            }
            Some(_) => Err(self.malformed()),
        }
    }

    fn split(&self, entry: &Value) -> Result<Named> {
        let name = entry.get("split").filter(|name| !name.is_null()).map(text);
        let patterns = match entry.get("path") {
            Some(Value::String(pattern)) => Some(vec![pattern.clone()]),
            Some(Value::Array(patterns)) => Some(patterns.iter().map(text).collect()),
            _ => None,
        };
        name.zip(patterns).ok_or_else(|| self.malformed())
    }

    fn malformed(&self) -> Error {
        error!("README.md: data_files of the subset {:?} are no patterns of files", self.name())
            .hint("name the data set's files with --data")
    }
}

/// The text of a value, which YAML may have read as a number or a boolean.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The YAML between the two lines of dashes that a README may begin with.
fn front_matter(text: &str) -> Option<&str> {
    let text = text.trim_start_matches('\u{FEFF}').trim_start();
    let rest = text.strip_prefix("---").and_then(|rest| rest.split_once('\n'));
    let (_, rest) = rest.filter(|(dashes, _)| dashes.trim().is_empty())?;
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some(&rest[..end]);
        }
        end += line.len();
    }
    None
}
