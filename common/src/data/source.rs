//! A data set of examples: its files and their format, by path or by a name in LLaMA-Factory's
//! `dataset_info.json`.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::Unhinted;
use crate::{Context, Error, Result, bail, cli, error, files};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::TRAIN;
use super::draw::{self, Draw};
use super::hub;
use super::slices::{ALL, Slice};
use super::splits::{Split, splits};
use super::{Columns, Format, RowLimit, Tags};

/// Public datasets that need no `dataset_info.json`: those for supervised fine-tuning that
/// LLaMA-Factory lists, with its names, in the form of that file.
const KNOWN: &str = include_str!("known.json");

/// The repository on the hub of a public data set that LLaMA-Factory has a name for.
pub fn known_repository(name: &str) -> Option<String> {
    let known: Map<String, Value> = serde_json::from_str(KNOWN).ok()?;
    known.get(name)?.get("hf_hub_url")?.as_str().map(str::to_owned)
}

/// Extensions of files that users give in place of the name of a dataset.
const FILES: [&str; 5] = ["json", "jsonl", "csv", "tsv", "parquet"];

/// Rows that are selected from some files.
#[derive(Debug, Clone)]
pub struct SlicedFiles {
    /// The files, in the order in which they are read.
    pub files: Vec<PathBuf>,
    /// The selection from the rows of all files together.
    pub slice: Slice,
}

/// A data set: files of examples and how to read them.
#[derive(Debug, Clone)]
pub struct DataSource {
    /// The files and rows that are read, in order.
    pub parts: Vec<SlicedFiles>,
    /// The format of the rows; where it is `None`, the first row decides.
    pub format: Option<Format>,
    /// The names of the columns.
    pub columns: Columns,
    /// The names of the fields and roles of messages.
    pub tags: Tags,
    /// The random draw from the rows, where one is asked for.
    pub draw: Option<Draw>,
    /// The most usable rows to read.
    pub max_samples: Option<usize>,
    /// The bound on the length of a row.
    pub row_limit: RowLimit,
}

/// An entry of `dataset_info.json`.
#[derive(Deserialize)]
struct DataSetEntry {
    file_name: Option<String>,
    hf_hub_url: Option<String>,
    script_url: Option<String>,
    subset: Option<String>,
    folder: Option<String>,
    split: Option<String>,
    formatting: Option<Format>,
    ranking: Option<bool>,
    columns: Option<Map<String, Value>>,
    tags: Option<Tags>,
    num_samples: Option<Value>,
    // Other hubs, and a checksum that old files have.
    #[serde(rename = "ms_hub_url")]
    _model_scope: Option<String>,
    #[serde(rename = "om_hub_url")]
    _openmind: Option<String>,
    #[serde(rename = "cloud_file_name")]
    _cloud: Option<String>,
    #[serde(rename = "file_sha1")]
    _checksum: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl DataSource {
    /// The data set of one file, whose format is recognised by its first row.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            parts: vec![SlicedFiles { files: vec![path.into()], slice: Slice::all_of(TRAIN) }],
            format: None,
            columns: Columns::default(),
            tags: Tags::default(),
            draw: None,
            max_samples: None,
            row_limit: RowLimit::default(),
        }
    }

    /// The data set called `name` in the `dataset_info.json` of `directory`, or the public one that
    /// LLaMA-Factory calls so. `seed` decides which rows `num_samples` draws.
    pub fn named(name: &str, directory: &Path, seed: u64) -> Result<Self> {
        let path = directory.join("dataset_info.json");
        let mut entries: Map<String, Value> = Map::new();
        if path.exists() {
            entries = files::read_json(&path, files::INDEX)?;
        }
        let mut known: Map<String, Value> = serde_json::from_str(KNOWN)?;
        let (entry, place) = match (entries.remove(name), known.remove(name)) {
            (Some(entry), _) => (entry, path.display().to_string()),
            (None, Some(entry)) => (entry, "public datasets".to_owned()),
            (None, None) => return Err(no_dataset(name, directory, &path, &entries)),
        };
        let within = || format!("{place}, {name}");
        let entry = DataSetEntry::new(entry).with_context(within)?;
        if !entry.others.is_empty() {
            let others: Vec<&str> = entry.others.keys().map(String::as_str).collect();
            cli::warn(format_args!(
                "{}: no keys of dataset_info.json, and ignored: {}",
                within(),
                others.join(", ")
            ));
        }
        Self::from_entry(entry, directory, seed).with_context(within)
    }

    fn from_entry(entry: DataSetEntry, directory: &Path, seed: u64) -> Result<Self> {
        if entry.ranking == Some(true) {
            bail!(Unsupported, "ranking data trains preferences, which lora-train does not");
        }
        let format = entry.formatting.unwrap_or(Format::Alpaca);
        let columns = match &entry.columns {
            Some(columns) => Columns::named(columns, format)?,
            None => Columns::unnamed(),
        };
        Ok(Self {
            draw: entry.drawn()?.map(|rows| Draw { rows, seed }),
            parts: entry.parts(directory)?,
            format: Some(format),
            columns,
            tags: entry.tags.unwrap_or_default(),
            max_samples: None,
            row_limit: RowLimit::default(),
        })
    }

    /// The files of all parts.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.parts.iter().flat_map(|part| &part.files)
    }

    /// A text that differs whenever other rows or columns would be read from the same files.
    pub fn reading(&self) -> String {
        let Self { parts, format, columns, tags, draw, max_samples, row_limit: _ } = self;
        let parts: Vec<(usize, &Slice)> = parts.iter().map(|part| (part.files.len(), &part.slice)).collect();
        format!("{parts:?} {format:?} {columns:?} {tags:?} {draw:?} {max_samples:?}")
    }

    /// Recognises the format of a row by its columns.
    pub(super) fn recognise(&self, row: &Value) -> Result<Format> {
        if row.get(self.columns.messages_of(row)).is_some() {
            return Ok(Format::ShareGpt);
        }
        let has = |column: &Option<String>| column.as_ref().is_some_and(|column| row.get(column).is_some());
        if has(&self.columns.prompt) || has(&self.columns.response) {
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

impl fmt::Display for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut files = self.files();
        match (files.next(), files.count()) {
            (None, _) => f.write_str("no file"),
            (Some(file), 0) => write!(f, "{}", file.display()),
            (Some(first), others) => write!(f, "{} and {others} more", first.display()),
        }
    }
}

impl DataSetEntry {
    fn new(value: Value) -> Result<Self> {
        let fails = |key: &str, value: &Value| {
            serde_json::from_value::<Self>(Value::Object(Map::from_iter([(key.to_owned(), value.clone())])))
                .is_err()
        };
        let mut keys = value.as_object().into_iter().flatten();
        let key = keys.find(|(key, value)| fails(key, value)).map(|(key, _)| key.clone());
        serde_json::from_value(value).with_context(|| key.unwrap_or_else(|| "an object expected".into()))
    }

    /// The number of rows to draw at random (`num_samples`), where it is given.
    fn drawn(&self) -> Result<Option<usize>> {
        let Some(value) = self.num_samples.as_ref().filter(|value| !value.is_null()) else { return Ok(None) };
        match value.as_u64() {
            Some(rows @ 1..=draw::MOST) => Ok(usize::try_from(rows).ok()),
            _ => {
                Err(error!("num_samples: a number of rows from 1 to {} expected, found {value}", draw::MOST)
                    .hint("leave num_samples out to use every row once"))
            }
        }
    }

    /// The files and rows of an entry. As in LLaMA-Factory, the hub has precedence over a file.
    fn parts(&self, directory: &Path) -> Result<Vec<SlicedFiles>> {
        let (subset, folder) = (not_empty(&self.subset), not_empty(&self.folder));
        let splits =
            match (not_empty(&self.hf_hub_url), not_empty(&self.script_url), not_empty(&self.file_name)) {
                (Some(url), ..) => {
                    let root = match Path::new(url) {
                        local if local.is_dir() => local.to_path_buf(),
                        _ => hub::data_set(hub::repository(url)?)?,
                    };
                    splits(&root, subset, folder).with_context(|| url.to_owned())?
                }
                (None, Some(name), _) => {
                    let root = directory.join(name);
                    if !root.is_dir() {
                        return Err(error!(
                            Unsupported,
                            "script_url: a folder of data expected, found {name:?}"
                        )
                        .hint("what a script would make is made first, and named with file_name or --data"));
                    }
                    splits(&root, subset, folder).with_context(|| root.display().to_string())?
                }
                (None, None, Some(name)) => {
                    vec![Split { name: TRAIN.to_owned(), files: data_files(directory.join(name))? }]
                }
                (None, None, None) => {
                    return Err(error!("it has neither file_name nor hf_hub_url")
                        .hint("download it and name its file with --data"));
                }
            };
        let text = not_empty(&self.split).unwrap_or(TRAIN);
        let slices = match text {
            ALL => splits.iter().map(|split| Slice::all_of(&split.name)).collect(),
            text => Slice::parse(text)?,
        };
        slices.into_iter().map(|slice| part(&splits, slice)).collect()
    }
}

/// The files of a slice's split.
fn part(splits: &[Split], slice: Slice) -> Result<SlicedFiles> {
    let Some(split) = splits.iter().find(|split| split.name == slice.split) else {
        let names: Vec<&str> = splits.iter().map(|split| split.name.as_str()).collect();
        let message = format!("there is no split {:?}", slice.split);
        return Err(error!("{message}").hint(format_args!("name one with `split`: {}", names.join(", "))));
    };
    if split.files.is_empty() {
        return Err(error!(
            "there is no JSON, JSON lines, CSV or parquet file of the split {:?}",
            split.name
        )
        .hint("make such a file of it, and name that with --data"));
    }
    Ok(SlicedFiles { files: split.files.clone(), slice })
}

/// The text of a value; `None` where it is missing or "".
fn not_empty(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|value| !value.is_empty())
}

/// The error for a name that no dataset has.
fn no_dataset(name: &str, directory: &Path, info: &Path, entries: &Map<String, Value>) -> Error {
    let within = directory.join(name);
    let is_file = [Path::new(name), &within].into_iter().find(|path| path.is_file());
    let looks_like_one = Path::new(name).extension().is_some_and(|end| FILES.iter().any(|file| end == *file));
    let message = match info.exists() {
        true => format!("{} has no dataset {name:?}", info.display()),
        false => format!("there is no dataset {name:?}, and no {}", info.display()),
    };
    let error = Unhinted::new(message);
    match is_file.or(looks_like_one.then_some(Path::new(name))) {
        Some(file) => error.hint(format_args!(
            "a file is named with --data {}; --dataset has names of dataset_info.json",
            cli::quoted_path(file)
        )),
        None if !info.exists() => {
            error.hint("--dataset-dir names the directory of dataset_info.json; --data FILE needs none")
        }
        None => {
            let names: Vec<&str> = entries.keys().map(String::as_str).collect();
            error.hint(format_args!("it has {}", names.join(", ")))
        }
    }
}

/// The file at a path, or the files in the folder there.
fn data_files(path: PathBuf) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path]);
    }
    let entries = fs_err::read_dir(&path)?.map(|entry| Ok(entry?.path()));
    let mut files = entries.collect::<Result<Vec<_>>>()?;
    let is_hidden = |file: &PathBuf| file.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
    files.retain(|file| file.is_file() && !is_hidden(file));
    files.sort();
    match files.is_empty() {
        true => Err(error!(Malformed, "{} is empty", path.display())),
        false => Ok(files),
    }
}
