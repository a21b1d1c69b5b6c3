//! Downloads data sets by name, by running `fetch`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::splits;
use crate::{Context, Error, Result, bail, cli, error, files};

/// The directory of a data set's repository, with the files needed to read it, downloaded into the user's
/// cache where they are not there.
pub fn data_set(repository: &str) -> Result<PathBuf> {
    download(repository, "datasets", &splits::needed_files())
}

/// Downloads the files of a data set's repository that match a glob of `include`, and returns their
/// directory in the folder `cache` of the user's cache. `fetch` asks the hub each time for changes.
pub fn download(repository: &str, cache: &str, include: &[String]) -> Result<PathBuf> {
    let directory = cli::cache_directory(cache)?.join(repository.replace('/', "--"));
    fetch(repository, &directory, include)?;
    if let Some(commit) = commit_of(&directory) {
        cli::note(format_args!("{repository} is used as of commit {commit}"));
    }
    Ok(directory)
}

/// The commit that `fetch` has recorded for a complete directory.
fn commit_of(directory: &Path) -> Option<String> {
    let record: Value = files::read_json(&directory.join("fetch.json"), files::INDEX).ok()?;
    record["commit"].as_str().map(str::to_owned)
}

fn fetch(repository: &str, directory: &Path, include: &[String]) -> Result<()> {
    let is_there = commit_of(directory).is_some();
    if !is_there {
        cli::note(format_args!("downloading {repository} into {}", directory.display()));
    }
    let mut command = cli::tool_command("fetch");
    let program = PathBuf::from(command.get_program());
    command.args(["--repo-type", "dataset", "--output"]).arg(directory);
    for glob in include {
        command.arg("--include").arg(glob);
    }
    if cli::is_quiet() {
        command.arg("--quiet");
    }
    // A name from a foreign file must not be taken for an option.
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
                program.display()
            ));
            Ok(())
        }
        Err(problem) => Err(Error::from(problem).context(format!("cannot run {}", program.display())))
            .hint("put fetch beside this program or on the PATH: cargo build --release"),
    }
}

/// Runs a command to its end. A signal that stops this tool is passed on to the command.
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

/// The name `OWNER/NAME` of the repository that `hf_hub_url` gives by its name or its address.
pub fn repository(url: &str) -> Result<&str> {
    let name = url.trim_end_matches('/');
    let name = name.rsplit_once("/datasets/").map_or(name, |(_, name)| name);
    match name.split('/').count() {
        2 => Ok(name),
        _ => bail!(Usage, "hf_hub_url: OWNER/NAME expected, found {url:?}"),
    }
}
