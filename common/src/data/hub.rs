//! Data sets that are only named: `fetch` brings them.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Context, Error, Result, bail, cli, error, files};

/// Kinds of files that hold rows.
const KINDS: [&str; 4] = ["parquet", "jsonl", "json", "csv"];

/// The files of a data set's repository that hold the rows of `split`, in `folder` of it if one is
/// named. They are downloaded into the user's cache unless they are there.
pub fn files(repository: &str, folder: Option<&str>, split: &str) -> Result<Vec<PathBuf>> {
    let directory = download(repository, "datasets", &KINDS.map(|kind| format!("*.{kind}")))?;
    let root = folder.map_or_else(|| directory.clone(), |folder| directory.join(folder));
    choose(&root, split).with_context(|| repository.to_owned())
}

/// The files of a data set's repository that match a glob of `include`, in a directory that is kept
/// in the folder `cache` of the user's cache. `fetch` asks the hub each time whether they have changed.
pub fn download(repository: &str, cache: &str, include: &[String]) -> Result<PathBuf> {
    let directory = cli::cache_directory(cache)?.join(repository.replace('/', "--"));
    fetch(repository, &directory, include)?;
    if let Some(commit) = commit_of(&directory) {
        cli::note(format_args!("{repository} is used as of commit {commit}"));
    }
    Ok(directory)
}

/// The commit that `fetch` has recorded for a directory, which it does last.
fn commit_of(directory: &Path) -> Option<String> {
    let record: Value = files::read_json(&directory.join("fetch.json"), files::INDEX).ok()?;
    record["commit"].as_str().map(str::to_owned)
}

/// The files of one kind in `root` that hold the rows of `split`, or all where none is called so.
fn choose(root: &Path, split: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(root, &mut found)?;
    found.sort();
    let of_split = |path: &PathBuf| {
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().to_lowercase();
        name.split(|c: char| !c.is_alphanumeric()).any(|word| word == split)
    };
    if found.iter().any(of_split) {
        found.retain(of_split);
    }
    // Repositories often hold the same rows as several kinds of file.
    let kind =
        KINDS.into_iter().find(|kind| found.iter().any(|path| path.extension().is_some_and(|e| e == *kind)));
    let Some(kind) = kind else {
        return Err(error!(Missing, "no JSON, JSON lines, CSV or parquet file in {}", root.display()));
    };
    found.retain(|path| path.extension().is_some_and(|extension| extension == kind));
    Ok(found)
}

fn fetch(repository: &str, directory: &Path, include: &[String]) -> Result<()> {
    let tool = cli::tool("fetch");
    let is_there = commit_of(directory).is_some();
    if !is_there {
        cli::note(format_args!("downloading {repository} into {}", directory.display()));
    }
    let mut command = Command::new(&tool);
    command.args(["--repo-type", "dataset", "--output"]).arg(directory);
    for glob in include {
        command.arg("--include").arg(glob);
    }
    if cli::is_quiet() {
        command.arg("--quiet");
    }
    // A name from a file of somebody else is not an option.
    command.arg("--").arg(repository);
    let by_hand =
        format!("fetch {} --repo-type dataset, then name its file with --data", cli::quoted(repository));
    match run(command.stdin(Stdio::null()).stdout(Stdio::null())) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if status.code() == Some(130) || cli::interrupted() => {
            Err(Error::interrupted("interrupted"))
        }
        Ok(_) => Err(error!("{repository} could not be downloaded; see fetch's message above").hint(by_hand)),
        Err(problem) if is_there && problem.kind() == std::io::ErrorKind::NotFound => {
            cli::warn(format_args!(
                "there is no {}: whether {repository} has changed on the hub is not known",
                tool.display()
            ));
            Ok(())
        }
        Err(problem) => Err(Error::from(problem).context(format!("cannot run {}", tool.display())))
            .hint("put fetch beside this program or on the PATH: cargo build --release"),
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs_err::read_dir(folder).context("the data set has no such folder")? {
        let path = entry?.path();
        let is_rows =
            path.extension().and_then(|kind| kind.to_str()).is_some_and(|kind| KINDS.contains(&kind));
        let is_record =
            path.file_name().is_some_and(|name| name == "fetch.json" || name == "dataset_infos.json");
        if path.is_dir() {
            collect(&path, found)?;
        } else if is_rows && !is_record {
            found.push(path);
        }
    }
    Ok(())
}

/// Runs a command to its end; a signal that asks this tool to stop stops the command, too.
fn run(command: &mut Command) -> std::io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    let mut is_told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if cli::interrupted() && !std::mem::replace(&mut is_told, true) {
            kill_process(Pid::from_child(&child), Signal::TERM)?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Names a repository by its URL or its path, as `hf_hub_url` does.
pub fn repository(url: &str) -> Result<&str> {
    let name = url.trim_end_matches('/');
    let name = name.rsplit_once("/datasets/").map_or(name, |(_, name)| name);
    match name.split('/').count() {
        2 => Ok(name),
        _ => bail!(Usage, "hf_hub_url: OWNER/NAME expected, found {url:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kind_of_file_and_the_split_that_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let chosen = |split: &str| -> Result<Vec<String>> {
            let name = |path: &PathBuf| path.strip_prefix(folder.path()).unwrap().display().to_string();
            Ok(choose(folder.path(), split)?.iter().map(name).collect())
        };
        assert!(chosen("train").unwrap_err().to_string().contains("no JSON"));
        fs_err::create_dir(folder.path().join("data")).unwrap();
        let add = |name: &str| fs_err::write(folder.path().join(name), "").unwrap();
        ["fetch.json", "notes.txt", "rows.json"].into_iter().for_each(add);
        assert_eq!(chosen("train").unwrap(), ["rows.json"], "where no file is called after the split");
        ["data/train-00001.parquet", "data/train-00000.parquet", "data/test-00000.parquet", "train.csv"]
            .into_iter()
            .for_each(add);
        assert_eq!(chosen("train").unwrap(), ["data/train-00000.parquet", "data/train-00001.parquet"]);
        assert_eq!(chosen("test").unwrap(), ["data/test-00000.parquet"]);
    }
}
