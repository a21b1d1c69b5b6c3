//! `made-by.json`: which tool made a directory, from what, and which files in it are the tool's.
//!
//! The list decides what `--force` may remove. Since anyone may have edited the file, a name in it must be
//! a plain path within the directory, and what is on the disk must be of the kind that the list says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::scratch::{self, SCRATCH};
use super::write::{self, remove};
use crate::{Context, Result};

/// The name of the file.
pub(super) const MADE_BY: &str = "made-by.json";
/// Most bytes of the file that are read.
const MOST_BYTES: u64 = 64 << 20;
/// Most components of a name in the list.
const MOST_PARTS: usize = 8;

/// Names of files in results of earlier versions, which kept no list.
const EARLIER_FILES: [&str; 28] = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "generation_config.json",
    "Modelfile",
    "LICENSE",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "adapter_model.safetensors",
    "adapter_config.json",
    "trainer_log.jsonl",
    "trainer_state.json",
    "training_args.yaml",
    "train_results.json",
    "eval_results.json",
    "all_results.json",
    "training_loss.png",
    "training_eval_loss.png",
    "optimizer.safetensors",
];

/// The kind of thing that a name in the list stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// A directory with a `made-by.json` of its own.
    Result,
}

/// The files and results of a tool in a directory, by their paths relative to it.
pub(super) type Files = BTreeMap<String, Kind>;

/// The content of a `made-by.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MadeBy {
    /// The tool that made the directory.
    pub tool: String,
    /// The version of the tool.
    pub version: String,
    /// Everything that the bytes of the result depend on.
    pub recipe: Value,
    /// Whether the work is not finished yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
    /// What each finished part was made from.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parts: Map<String, Value>,
    /// Facts about the result that its bytes do not depend on.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub results: Map<String, Value>,
    /// The files that the tool wrote. Results of earlier versions have no list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
}

impl MadeBy {
    /// The record of work that has just begun.
    pub(super) fn unfinished(tool: &str, recipe: Value) -> Self {
        Self {
            tool: tool.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            recipe,
            unfinished: true,
            parts: Map::new(),
            results: Map::new(),
            files: Some(Files::new()),
        }
    }

    /// The record in a directory; `None` where there is none, or one that is damaged or names a path outside.
    pub(super) fn read(directory: &Path) -> Option<Self> {
        let file = write::no_follow().read(true).open(directory.join(MADE_BY)).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut text = String::new();
        file.take(MOST_BYTES).read_to_string(&mut text).ok()?;
        let found: Self = serde_json::from_str(&text).ok()?;
        found.files.iter().flatten().all(|(name, _)| is_within(name)).then_some(found)
    }

    /// Writes the record whole or not at all, first to the path `scratch`.
    pub(super) fn write(&self, directory: &Path, scratch: &Path) -> Result<()> {
        remove(scratch)?;
        let mut file = write::create_new(scratch)?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| format!("cannot write {}", directory.join(MADE_BY).display()))?;
        Ok(fs_err::rename(scratch, directory.join(MADE_BY))?)
    }

    /// Whether two records are of the same work.
    pub(super) fn is_of_same(&self, other: &Self) -> bool {
        (&self.tool, &self.version, &self.recipe) == (&other.tool, &other.version, &other.recipe)
    }

    /// The names in `directory` that are the tool's: those of the list, or, for a result of an earlier
    /// version without one, those that the tool is known to have written.
    pub(super) fn files_in(&self, directory: &Path) -> Files {
        self.files.clone().unwrap_or_else(|| earlier_files(directory, &self.tool, &self.parts))
    }
}

/// The files in a result without a list that have names which its tool is known to have written.
pub(super) fn earlier_files(directory: &Path, tool: &str, parts: &Map<String, Value>) -> Files {
    let mut files = Files::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) else { continue };
        let is_known = EARLIER_FILES.contains(&name.as_str()) || parts.contains_key(&name);
        let is_checkpoint = || {
            let step = name.strip_prefix("checkpoint-").and_then(|step| step.parse::<u64>().ok());
            step.is_some() && MadeBy::read(&entry.path()).is_some_and(|found| found.tool == tool)
        };
        if kind.is_file() && is_known {
            files.insert(name, Kind::File);
        } else if kind.is_dir() && is_checkpoint() {
            files.insert(name, Kind::Result);
        }
    }
    files
}

/// What a directory that a tool wants to use holds.
#[derive(Debug)]
pub(super) enum Contents {
    /// There is no such directory, or nothing is in it.
    Nothing,
    /// A result of this tool, finished or not; and the first entry that is not the tool's, if there is one.
    Ours(Box<MadeBy>, Option<PathBuf>),
    /// Something that the tool did not make; its first entry.
    Foreign(PathBuf),
}

/// What `directory` holds, from the point of view of `tool`.
pub(super) fn contents(directory: &Path, tool: &str) -> Result<Contents> {
    match directory.symlink_metadata() {
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(Contents::Nothing),
        Ok(found) if !found.is_dir() => return Ok(Contents::Foreign(directory.to_path_buf())),
        _ => {}
    }
    if let Some(found) = MadeBy::read(directory).filter(|found| found.tool == tool) {
        let files = found.files_in(directory);
        let other = unlisted(directory, tool, "", Some(&files))?;
        return Ok(Contents::Ours(Box::new(found), other));
    }
    Ok(match unlisted(directory, tool, "", None)? {
        Some(other) => Contents::Foreign(other),
        None => Contents::Nothing,
    })
}

/// The first entry of `directory` that the list `files` does not name, which is every entry where there
/// is no list; `prefix` is where the directory lies in the one with the list.
pub(super) fn unlisted(
    directory: &Path,
    tool: &str,
    prefix: &str,
    files: Option<&Files>,
) -> Result<Option<PathBuf>> {
    let mut entries: Vec<_> = fs_err::read_dir(directory)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type()?);
        let other = Ok(Some(path.clone()));
        let Ok(name) = entry.file_name().into_string() else { return other };
        let is_record = prefix.is_empty() && name == MADE_BY && kind.is_file();
        let is_scratch = prefix.is_empty() && name == SCRATCH && scratch::is_ours_within(directory);
        if (is_record && files.is_some()) || is_scratch {
            continue;
        }
        let Some(listed) = files else { return other };
        let name = format!("{prefix}{name}");
        match listed.get(&name) {
            Some(Kind::File) if kind.is_file() => {}
            Some(Kind::Result) if kind.is_dir() => match contents(&path, tool)? {
                Contents::Nothing | Contents::Ours(_, None) => {}
                Contents::Ours(_, Some(other)) | Contents::Foreign(other) => return Ok(Some(other)),
            },
            None if kind.is_dir() && listed.keys().any(|file| file.starts_with(&format!("{name}/"))) => {
                if let Some(other) = unlisted(&path, tool, &format!("{name}/"), files)? {
                    return Ok(Some(other));
                }
            }
            _ => return other,
        }
    }
    Ok(None)
}

/// Removes a file of the list, and the directories above it that are empty then.
pub(super) fn remove_file(directory: &Path, name: &str) -> Result<()> {
    if !has_plain_parents(directory, name) {
        return Ok(());
    }
    let path = directory.join(name);
    if path.symlink_metadata().is_ok_and(|found| found.is_file()) {
        fs_err::remove_file(&path)?;
    }
    for parent in path.ancestors().skip(1).take_while(|parent| *parent != directory) {
        if std::fs::remove_dir(parent).is_err() {
            break;
        }
    }
    Ok(())
}

/// Whether no directory between `directory` and a file in it is a link.
pub(super) fn has_plain_parents(directory: &Path, name: &str) -> bool {
    let path = directory.join(name);
    let between = path.ancestors().skip(1).take_while(|parent| *parent != directory);
    between.into_iter().all(|parent| parent.symlink_metadata().map_or(true, |found| found.is_dir()))
}

/// The names of all regular files in a directory that a tool has just filled.
pub(super) fn list(directory: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs_err::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if let Some(name) = entry
                .path()
                .strip_prefix(directory)
                .ok()
                .and_then(|name| name.to_str())
                .filter(|n| *n != MADE_BY)
            {
                files.insert(name.to_owned(), Kind::File);
            }
        }
    }
    Ok(files)
}

/// Whether a name is a plain path that stays in its directory.
pub(super) fn is_within(name: &str) -> bool {
    let parts: Vec<_> = Path::new(name).components().collect();
    (1..=MOST_PARTS).contains(&parts.len())
        && parts.iter().all(|part| matches!(part, Component::Normal(_)))
        && name != MADE_BY
        && !name.ends_with('/')
        && !name.contains("//")
}
