//! Finds the splits of a data set in a folder, and the files of each, as the datasets library does: by the
//! subsets that the README lists, or by the names of folders and files.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use super::TRAIN;
use super::card::{Card, Subset};
use crate::{Context, Error, Result, error};

/// Extensions of files that hold rows, and the format of each. Where a split has equally many files of two
/// formats, the earlier one is read.
const KINDS: [(&str, &str); 6] = [
    ("parquet", "parquet"),
    ("jsonl", "json"),
    ("json", "json"),
    ("csv", "csv"),
    ("tsv", "tsv"),
    ("ndjson", "json"),
];

/// Names of files that describe a data set and hold no rows.
const DESCRIPTIONS: [&str; 5] =
    ["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "fetch.json"];

/// The words in the names of files that tell their split.
const KEYWORDS: [(&str, &[&str]); 3] = [
    (TRAIN, &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The pattern of a character between a keyword and the rest of a name.
const SEPARATOR: &str = "[-._ 0-9]";

/// Most patterns with wildcards that a split may have.
const MOST_PATTERNS: usize = 1000;

/// Most bytes of a pattern with wildcards.
const LONGEST_PATTERN: usize = 1000;

/// The end of the pattern for shards of a split, such as `data/train-00000-of-00002.parquet`.
const SHARD: &str = "-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]*.*";

/// The patterns of the files that are needed to read a data set.
pub fn needed_files() -> Vec<String> {
    let rows = KINDS.iter().flat_map(|(end, _)| [format!("*.{end}"), format!("*.{end}.*")]);
    rows.chain(Card::FILES.map(str::to_owned)).collect()
}

/// A split of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The name of the split, such as `train`.
    pub name: String,
    /// The files of the split, in the order in which they are read.
    pub files: Vec<PathBuf>,
}

/// Finds the splits of the data set in `root`: those of a subset that its README lists, or those in one of
/// its folders.
pub fn splits(root: &Path, subset: Option<&str>, folder: Option<&str>) -> Result<Vec<Split>> {
    let card = Card::read(root)?;
    let chosen = match (subset, folder) {
        (Some(name), None) if card.subsets.is_empty() => return by_names(&inside(root, name)?),
        (Some(name), _) if !card.subsets.is_empty() => Some(card.subset(name)?),
        (_, None) => card.default_subset()?,
        (_, Some(_)) => None,
    };
    match (chosen, folder) {
        (_, Some(folder)) => by_names(&inside(root, folder)?),
        (None, None) => by_names(root),
        (Some(subset), None) => described(root, subset),
    }
}

/// The path of a folder within a data set. Fails where it would lie outside.
fn inside(root: &Path, folder: &str) -> Result<PathBuf> {
    let path = root.join(folder);
    let is_plain = |part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir);
    if !Path::new(folder).components().all(is_plain) {
        return Err(error!("a folder of the data set expected, found {folder:?}")
            .hint("a folder is named by its path in the data set, as data/en"));
    }
    if path.is_dir() {
        return Ok(path);
    }
    let entries = fs_err::read_dir(root)?.filter_map(|entry| Some(entry.ok()?.path()));
    let folders = entries.filter(|path| path.is_dir());
    let mut names: Vec<String> =
        folders.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Err(error!("the data set has no folder or subset {folder:?}").hint(match names.is_empty() {
        true => "it has no folders: leave `subset` and `folder` out".to_owned(),
        false => format!("its folders are {}", names.join(", ")),
    }))
}

/// The splits of a subset that the README describes.
fn described(root: &Path, subset: &Subset) -> Result<Vec<Split>> {
    let root = match &subset.data_dir {
        Some(folder) => inside(root, folder)?,
        None => root.to_path_buf(),
    };
    let Some(splits) = subset.splits()? else { return by_names(&root) };
    let found = files_in(&root)?;
    splits
        .into_iter()
        .map(|(name, patterns)| {
            let files = of_one_format(matching(&found, &patterns)?);
            Ok(Split { name, files: files.into_iter().map(|file| root.join(file)).collect() })
        })
        .collect()
}

/// The splits that the names of folders and files tell.
fn by_names(root: &Path) -> Result<Vec<Split>> {
    let found = files_in(root)?;
    if found.is_empty() {
        return Err(error!("no JSON, JSON lines, CSV or parquet file in {}", root.display())
            .hint("a data set of another kind is made such a file first, and named with --data"));
    }
    let mut splits = shards(&found)?;
    for patterns in [in_folders as fn(&str) -> Vec<String>, in_files] {
        if splits.is_empty() {
            for (name, words) in KEYWORDS {
                let patterns: Vec<String> = words.iter().flat_map(|word| patterns(word)).collect();
                splits.push((name.to_owned(), matching(&found, &patterns)?));
            }
            splits.retain(|(_, files)| !files.is_empty());
        }
    }
    if splits.is_empty() {
        splits.push((TRAIN.to_owned(), matching(&found, &["**".to_owned()])?));
    }
    let split = |(name, files): (String, Vec<String>)| Split {
        name,
        files: of_one_format(files).into_iter().map(|file| root.join(file)).collect(),
    };
    Ok(splits.into_iter().map(split).collect())
}

/// The splits of files such as `data/SPLIT-00000-of-00001.parquet`; those in [`KEYWORDS`] come first.
fn shards(found: &[String]) -> Result<Vec<(String, Vec<String>)>> {
    let name_of = |file: &String| {
        let name = file.rsplit('/').next().unwrap_or(file);
        let numbers = name.match_indices("-of-").filter_map(|(at, _)| at.checked_sub(6));
        numbers.last().and_then(|at| name.get(..at)).map(str::to_owned)
    };
    let all = matching(found, &[format!("data/*{SHARD}")])?;
    let mut names: Vec<String> = all.iter().filter_map(name_of).collect();
    let rank = |name: &String| KEYWORDS.iter().position(|(split, _)| split == name).unwrap_or(KEYWORDS.len());
    names.sort_by_key(|name| (rank(name), name.clone()));
    names.dedup();
    let is_word = |name: &&String| name.chars().all(|c| c.is_alphanumeric() || "_.".contains(c));
    if let Some(name) = names.iter().find(|name| !is_word(name)) {
        return Err(error!(
            "data/{name}-00000-of-...: a split is named by letters, digits and _, not {name:?}"
        )
        .hint("name the data set's files with --data"));
    }
    let split = |name: String| {
        let files = matching(found, &[format!("data/{}{SHARD}", literal(&name))])?;
        Ok((name, files))
    };
    names.into_iter().map(split).collect()
}

/// The pattern that matches exactly this text.
fn literal(text: &str) -> String {
    let escape = |c: char| if "*?[]".contains(c) { format!("[{c}]") } else { c.to_string() };
    text.chars().map(escape).collect()
}

fn in_folders(word: &str) -> Vec<String> {
    vec![
        format!("**/{word}/**"),
        format!("**/{word}{SEPARATOR}*/**"),
        format!("**/*{SEPARATOR}{word}/**"),
        format!("**/*{SEPARATOR}{word}{SEPARATOR}*/**"),
    ]
}

fn in_files(word: &str) -> Vec<String> {
    vec![format!("**/{word}{SEPARATOR}*"), format!("**/*{SEPARATOR}{word}{SEPARATOR}*")]
}

/// The files that match the patterns: those of the first pattern, then those of the next, each file once.
/// `found` must be sorted.
fn matching(found: &[String], patterns: &[String]) -> Result<Vec<String>> {
    let mut files: Vec<String> = Vec::new();
    let mut left: Vec<&String> = found.iter().collect();
    let mut wild = 0;
    for pattern in patterns {
        let pattern = pattern.strip_prefix("./").unwrap_or(pattern);
        if pattern.contains("://") {
            return Err(error!("its README names {pattern:?}, which is no file of the data set")
                .hint("download that file, and name it with --data"));
        }
        if !pattern.contains(['*', '?', '[']) {
            if let Ok(at) = left.binary_search_by(|file| file.as_str().cmp(pattern)) {
                files.push(left.remove(at).clone());
            }
            continue;
        }
        wild += 1;
        if wild > MOST_PATTERNS || pattern.len() > LONGEST_PATTERN {
            return Err(error!(
                "README.md: at most {MOST_PATTERNS} patterns of files in a split expected, of at most {LONGEST_PATTERN} bytes"
            )
            .hint("name the data set's files with --data"));
        }
        let glob = compile(pattern)?;
        let matches = |file: &&String| glob.is_match(file.as_str()) && hides_as_much(file, pattern);
        let (new, rest): (Vec<&String>, Vec<&String>) = left.into_iter().partition(matches);
        files.extend(new.into_iter().cloned());
        left = rest;
    }
    Ok(files)
}

/// Compiles a pattern of paths, where `*` stays within a folder, `**` stands for any number of folders, and
/// braces stand for themselves.
fn compile(pattern: &str) -> Result<GlobMatcher> {
    let braces = pattern.replace('{', "[{]").replace('}', "[}]");
    let glob = GlobBuilder::new(&braces).literal_separator(true).backslash_escape(false).build();
    let glob =
        glob.map_err(Error::malformed).with_context(|| format!("README.md, data_files: {pattern:?}"))?;
    Ok(glob.compile_matcher())
}

/// Whether a path has as many hidden components (`.git`, `__pycache__`) as its pattern names.
fn hides_as_much(file: &str, pattern: &str) -> bool {
    let hidden = |path: &str| path.split('/').filter(|part| part.starts_with('.')).count();
    let special = |path: &str| {
        let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
        folders.split('/').filter(|part| part.starts_with("__")).count()
    };
    hidden(file) == hidden(pattern) && special(file) == special(pattern)
}

/// The extensions of a file's name: all parts after the first dot, in lower case.
fn ends(file: &str) -> impl Iterator<Item = String> {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').skip(1).map(str::to_lowercase)
}

/// The files of the most frequent format, because data sets often hold the same rows in several formats.
fn of_one_format(files: Vec<String>) -> Vec<String> {
    let count = |end: &str| files.iter().flat_map(|file| ends(file)).filter(|found| found == end).count();
    let most = KINDS.iter().rev().max_by_key(|(end, _)| count(end));
    let Some((_, format)) = most else { return files };
    let is_of_it =
        |file: &String| ends(file).any(|end| KINDS.iter().any(|(kind, of)| *kind == end && of == format));
    files.into_iter().filter(is_of_it).collect()
}

/// The files below `root` that hold rows, as paths in it, sorted.
fn files_in(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(&folder)? {
            let entry = entry?;
            // A link to a folder is not followed: it could lead round in a circle.
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let path = entry.path();
            let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) else { continue };
            let holds_rows = ends(name).any(|end| KINDS.iter().any(|(kind, _)| *kind == end));
            let describes =
                DESCRIPTIONS.iter().any(|description| path.file_name() == Some(description.as_ref()));
            if holds_rows && !describes && path.is_file() {
                found.push(name.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
